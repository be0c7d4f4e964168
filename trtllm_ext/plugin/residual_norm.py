"""residual_norm: the sum of a residual connection and the norm that reads it, in one pass over the rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trtllm_ext.graph import functional
from trtllm_ext.plugin import formulas
from trtllm_ext.plugin.c_interface import Norm, Rounding, Type
from trtllm_ext.plugin.operation import NO_LIMIT, Operand, Operation, choice, number, switch

if TYPE_CHECKING:
    from trtllm_ext.graph import Tensor


def _expansion(
    fields: Mapping[str, Any],
    *,
    x: Tensor,
    residual: Tensor | None,
    bias: Tensor | None,
    weight: Tensor | None,
    norm_bias: Tensor | None,
) -> tuple[Tensor, ...]:
    total = _sum(x, residual, bias)
    outputs = [total] if fields["has_sum"] else []
    if fields["norm"] == Norm.NO_NORM:
        return tuple(outputs)
    form = formulas.NormForm(
        kind=Norm(fields["norm"]).name.lower(),
        eps=fields["eps"],
        weight_offset=fields["weight_offset"],
        rounding=Rounding(fields["rounding"]).name.lower(),
    )
    quantized_type = Type(fields["quantized_type"])
    if quantized_type == Type.NO_TYPE:
        normed = formulas.norm_of_rows(total, weight, norm_bias, form)
        return (*outputs, functional.cast(normed, x.dtype))
    # What is divided by the scales has not been rounded to a narrow type.
    wide = formulas.norm_of_rows(formulas.float32(total), _float32(weight), _float32(norm_bias), form)
    return (*outputs, *formulas.quantized_rows(wide, quantized_type.name.lower()))


def _sum(x: Tensor, residual: Tensor | None, bias: Tensor | None) -> Tensor:
    """x + bias + residual, rounded once."""
    if bias is None:
        return x if residual is None else residual + x
    wide = formulas.float32(x) + formulas.float32(bias)
    wide = wide if residual is None else formulas.float32(residual) + wide
    return functional.cast(wide, x.dtype)


def _float32(x: Tensor | None) -> Tensor | None:
    return None if x is None else formulas.float32(x)


RESIDUAL_NORM = Operation(
    name="residual_norm",
    plugin="ResidualNorm",
    doc="sum = x + bias + residual; normed = norm(sum) * (weight + weight_offset) + norm_bias",
    fields=(
        choice("type", Type, "type of all inputs, of sum and of normed"),
        choice("norm", Norm, "which norm; NO_NORM is the sum alone"),
        number("eps", "added to the variance, or the mean of squares; above 0 where there is a norm"),
        number("weight_offset", "added to the weight, such as Gemma's 1", least=-NO_LIMIT),
        choice("rounding", Rounding, "when normed is rounded to the type", Rounding.AFTER_WEIGHT),
        choice(
            "quantized_type", Type, "INT8 or FLOAT8_E4M3 for scaled rows in place of normed", Type.NO_TYPE
        ),
        switch("has_residual", "whether there is a residual"),
        switch("has_bias", "whether there is a bias of x"),
        switch("has_weight", "whether the norm has a weight"),
        switch("has_norm_bias", "whether the norm has a bias"),
        switch("has_sum", "whether the sum is an output; 0 where only the norm reads it", 1),
    ),
    inputs=(
        Operand(name="x", shape=("...", "hidden_size"), doc="what joins the stream, or what is normed"),
        Operand(name="residual", shape=("...", "hidden_size"), doc="the stream", when="has_residual"),
        Operand(name="bias", shape=("hidden_size",), doc="added to x", when="has_bias"),
        Operand(name="weight", shape=("hidden_size",), doc="of the norm", when="has_weight"),
        Operand(name="norm_bias", shape=("hidden_size",), doc="of the norm", when="has_norm_bias"),
    ),
    outputs=(
        Operand(name="sum", shape=("...", "hidden_size"), doc="x + bias + residual", when="has_sum"),
        Operand(
            name="normed",
            shape=("...", "hidden_size"),
            doc="the norm of the rounded sum",
            when="norm",
            unless="quantized_type",
        ),
        Operand(
            name="quantized",
            shape=("...", "hidden_size"),
            doc="the norm over its row's scale",
            type="quantized_type",
            when="quantized_type",
        ),
        Operand(name="scales", shape=("...", "1"), doc="one a row", type="float32", when="quantized_type"),
    ),
    types=("float32", "float16", "bfloat16"),
    expansion=_expansion,
)
