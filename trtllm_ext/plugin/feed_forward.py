"""feed_forward: the whole feed-forward sublayer, with the residual where the sublayer's result joins one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trtllm_ext.plugin import formulas
from trtllm_ext.plugin.c_interface import Activation, Type
from trtllm_ext.plugin.gated_activation import CLAMP, GATE_OFFSET
from trtllm_ext.plugin.operation import INT32_MAX, Field, Operand, Operation, choice, switch

if TYPE_CHECKING:
    from trtllm_ext.graph import Tensor

_X = ("...", "hidden_size")


def _expansion(
    fields: Mapping[str, Any],
    *,
    x: Tensor,
    fc_weight: Tensor,
    proj_weight: Tensor,
    gate_weight: Tensor | None,
    fc_bias: Tensor | None,
    gate_bias: Tensor | None,
    proj_bias: Tensor | None,
    residual: Tensor | None,
) -> tuple[Tensor, ...]:
    fc = formulas.product(x, fc_weight, fc_bias)
    gate = None if gate_weight is None else formulas.product(x, gate_weight, gate_bias)
    activation = Activation(fields["activation"]).name.lower()
    inner = formulas.gated_activation(fc, gate, activation, fields["clamp"] or None, fields["gate_offset"])
    y = formulas.product(inner, proj_weight, proj_bias)
    return (y if residual is None else residual + y,)


FEED_FORWARD = Operation(
    name="feed_forward",
    plugin="FeedForward",
    doc="y = inner proj_weight^T + proj_bias (+ residual), inner = gated_activation(x fc_weight^T + fc_bias, "
    "x gate_weight^T + gate_bias)",
    fields=(
        choice("type", Type, "type of all inputs and of y"),
        choice("activation", Activation, "which activation"),
        switch("gated", "whether there is a gate_weight"),
        switch("has_fc_bias", "whether there is an fc_bias"),
        switch("has_gate_bias", "whether there is a gate_bias"),
        switch("has_proj_bias", "whether there is a proj_bias"),
        switch("has_residual", "whether there is a residual"),
        CLAMP,
        GATE_OFFSET,
        switch("tf32", "whether float32 products may round their operands to TF32"),
        Field(
            name="max_num_tokens",
            type="int32",
            doc="most tokens in a run; 0: as the optimization profile says",
            default=0,
            most=INT32_MAX,
        ),
    ),
    inputs=(
        Operand(name="x", shape=_X, doc="the sublayer's input"),
        Operand(name="fc_weight", shape=("ffn_hidden_size", "hidden_size"), doc="of what is activated"),
        Operand(name="proj_weight", shape=("hidden_size", "ffn_hidden_size"), doc="of the second product"),
        Operand(
            name="gate_weight",
            shape=("ffn_hidden_size", "hidden_size"),
            doc="of the linear gate",
            when="gated",
        ),
        Operand(name="fc_bias", shape=("ffn_hidden_size",), doc="of the first product", when="has_fc_bias"),
        Operand(name="gate_bias", shape=("ffn_hidden_size",), doc="of the gate", when="has_gate_bias"),
        Operand(name="proj_bias", shape=("hidden_size",), doc="of the second product", when="has_proj_bias"),
        Operand(name="residual", shape=_X, doc="the stream that y joins", when="has_residual"),
    ),
    outputs=(Operand(name="y", shape=_X, doc="the sublayer's output, or the stream after it"),),
    types=("float32", "float16", "bfloat16"),
    expansion=_expansion,
)
