"""Normalisations over trailing axes, with statistics in float32 whatever the type."""

from __future__ import annotations

from typing import Literal

from trtllm_ext.checkpoint.dtypes import weight_dtype
from trtllm_ext.errors import ConfigError
from trtllm_ext.graph import Module, Parameter, Tensor, functional
from trtllm_ext.layers import plugin_roads
from trtllm_ext.layers.tensor_parallel import check_group, shard_size, sum_over_ranks
from trtllm_ext.plugin import formulas
from trtllm_ext.plugin.formulas import NormForm, float32, offset
from trtllm_ext.suggest import divisors, nearest

_ROUNDINGS = ("before_weight", "after_weight")


def _shape(normalized_shape: int | tuple[int, ...] | list[int]) -> tuple[int, ...]:
    return (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)


class LayerNorm(Module):
    """(x - mean) / sqrt(variance + eps) * (weight + weight_offset) + bias over the trailing axes.

    Ba, Kiros, Hinton 2016; with a weight_offset of 1, Nemotron's form. Rounded once, after the bias.
    normalized_shape: the sizes of those axes. weight, bias: of that shape.
    output_dtype: the result's type, where it is not the weight's.
    tp_group, tp_size: the ranks over which a single axis is split; each holds its part of weight and bias. The
        statistics are those of the whole axis, at the cost of two sums of one number a token over the ranks: of the
        values, then of the squares of what they deviate from the mean.
    Raises ConfigError when the axis does not split, and for several ranks without a tp_group.
    """

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float = 1e-05,
        elementwise_affine: bool = True,
        bias: bool = True,
        dtype: str | None = None,
        *,
        weight_offset: float = 0.0,
        output_dtype: str | None = None,
        tp_group: list[int] | None = None,
        tp_size: int = 1,
    ) -> None:
        super().__init__()
        self.normalized_shape = _own_part(_shape(normalized_shape), tp_group, tp_size)
        self.tp_group, self.tp_size = tp_group, tp_size
        self.eps = _positive(eps)
        self.dtype = dtype or "float32"
        self.output_dtype = _known(output_dtype)
        self.weight_offset = weight_offset
        self.register_parameter("weight", None)
        self.register_parameter("bias", None)
        if elementwise_affine:
            self.weight = Parameter(shape=self.normalized_shape, dtype=self.dtype)
            if bias:
                self.bias = Parameter(shape=self.normalized_shape, dtype=self.dtype)

    def forward(self, x: Tensor, normalized_shape: int | tuple[int, ...] | None = None) -> Tensor:
        """x: (..., *normalized_shape), of the weight's type or wider (a float32 residual stream).

        The result has x's shape and the weight's type, or output_dtype. Raises ConfigError for other axes
        than the norm's own where that is split over ranks.
        """
        shape = _axes(normalized_shape, self)
        normed = plugin_roads.normed(self, x, shape)
        if normed is not None:
            return normed
        weight = None if self.weight is None else self.weight.value
        bias = None if self.bias is None else self.bias.value
        to = self.output_dtype or (x.dtype if weight is None else weight.dtype)
        if self.tp_size > 1:
            return functional.cast(self._over_ranks(float32(x), weight, bias), to)
        return functional.cast(formulas.layer_norm(x, shape, weight, bias, self.form), to)

    @property
    def form(self) -> NormForm:
        """The norm but for its weights."""
        return NormForm("layer_norm", self.eps, self.weight_offset)

    def _over_ranks(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """x: this rank's part of the axis, float32; the result likewise."""
        centred = x - _mean_over_ranks(x, self)
        normed = centred / functional.sqrt(_mean_over_ranks(centred * centred, self) + self.eps)
        if weight is not None:
            normed = normed * offset(weight, self.weight_offset)
        return normed if bias is None else normed + float32(bias)


class RmsNorm(Module):
    """x / sqrt(mean(x^2) + eps) * (weight + weight_offset) over the trailing axes (Zhang, Sennrich 2019).

    normalized_shape: the sizes of those axes. weight: of that shape. With a weight_offset of 1, Gemma's form.
    rounding: 'before_weight' rounds to the weight's type before the product with it, as TensorRT-LLM and Llama do;
        'after_weight' rounds the product, once.
    num_groups: that many equal parts of a single axis are normalised separately.
    output_dtype: the result's type, where it is not the weight's.
    tp_group, tp_size: the ranks over which a single axis is split; each holds its part of the weight. The statistics
        are those of the whole axis, at the cost of one sum of one number a token over the ranks; or of its groups,
        where each rank has whole ones.
    Raises ConfigError when num_groups does not divide the axis, or there are several axes to divide, for a
    weight_offset with rounding 'before_weight', when the axis or its groups do not split over the ranks, and for
    several ranks without a tp_group.
    """

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        num_groups: int = 1,
        eps: float = 1e-06,
        elementwise_affine: bool = True,
        dtype: str | None = None,
        *,
        weight_offset: float = 0.0,
        rounding: Literal["before_weight", "after_weight"] | None = None,
        output_dtype: str | None = None,
        tp_group: list[int] | None = None,
        tp_size: int = 1,
    ) -> None:
        super().__init__()
        self.normalized_shape = _shape(normalized_shape)
        if num_groups < 1 or self.normalized_shape[-1] % num_groups:
            raise ConfigError(
                f"num_groups={num_groups} does not divide the axis of {self.normalized_shape[-1]}."
            )
        if num_groups > 1 and len(self.normalized_shape) > 1:
            raise ConfigError(
                f"num_groups={num_groups} splits one axis; normalized_shape={self.normalized_shape} has "
                f"{len(self.normalized_shape)}."
            )
        if rounding not in (*_ROUNDINGS, None):
            raise ConfigError(f"rounding={rounding!r} is not known. {nearest(rounding, _ROUNDINGS)}")
        if weight_offset and rounding == "before_weight":
            raise ConfigError(
                f"weight_offset={weight_offset} is added in float32; use rounding='after_weight'."
            )
        self.normalized_shape = _own_part(self.normalized_shape, tp_group, tp_size)
        self.tp_group, self.tp_size = tp_group, tp_size
        self.num_groups = _own_groups(num_groups, tp_size)
        self.has_own_groups = num_groups > 1
        self.eps = _positive(eps)
        self.dtype = dtype or "float32"
        self.output_dtype = _known(output_dtype)
        self.weight_offset = weight_offset
        self.rounding = rounding or ("after_weight" if weight_offset else "before_weight")
        self.register_parameter("weight", None)
        if elementwise_affine:
            self.weight = Parameter(shape=self.normalized_shape, dtype=self.dtype)

    def forward(self, x: Tensor, normalized_shape: int | tuple[int, ...] | None = None) -> Tensor:
        """x: (..., *normalized_shape), of the weight's type or wider (a float32 residual stream).

        The result has x's shape and the weight's type, or output_dtype. Raises ConfigError for other axes
        than the norm's own where that is split over ranks.
        """
        shape = _axes(normalized_shape, self)
        normed = plugin_roads.normed(self, x, shape)
        if normed is not None:
            return normed
        weight = None if self.weight is None else self.weight.value
        to = self.output_dtype or (x.dtype if weight is None else weight.dtype)
        return functional.cast(self._normalized(x, shape, weight), to)

    @property
    def form(self) -> NormForm:
        """The norm but for its weights."""
        return NormForm("rms_norm", self.eps, self.weight_offset, self.rounding)

    def _normalized(self, x: Tensor, shape: tuple[int, ...], weight: Tensor | None) -> Tensor:
        def over_root(wide: Tensor, factor: Tensor | None) -> Tensor:
            return self._over_root(wide, shape, factor)

        return formulas.rms_norm(x, weight, self.form, over_root)

    def _over_root(self, x: Tensor, shape: tuple[int, ...], weight: Tensor | None = None) -> Tensor:
        """x / sqrt(mean(x^2) + eps), computed in float32 and rounded to x's type, then times weight."""
        if self.tp_size == 1 or self.has_own_groups:
            return functional.rms_norm(x, shape, self.num_groups, weight, self.eps)
        x32 = float32(x)
        root = functional.sqrt(_mean_over_ranks(x32 * x32, self) + self.eps)
        normed = functional.cast(x32 / root, x.dtype)
        return normed if weight is None else normed * weight


def _own_part(shape: tuple[int, ...], tp_group: list[int] | None, tp_size: int) -> tuple[int, ...]:
    """This rank's part of the axes that are normalised."""
    check_group(tp_group, tp_size)
    if tp_size == 1:
        return shape
    if len(shape) > 1:
        raise ConfigError(
            f"normalized_shape={shape} with tp_size={tp_size}: a single axis is split over ranks, not {len(shape)}."
        )
    part = shard_size(shape[0], tp_size, "normalized_shape")
    if tp_group is None:
        raise ConfigError(
            f"a norm with tp_size={tp_size} needs tp_group, the ranks whose parts make up the axis; without their sums "
            "its statistics would be those of one part."
        )
    return (part,)


def _own_groups(num_groups: int, tp_size: int) -> int:
    """How many of a norm's groups this rank has. A single one, the whole axis, is over all ranks."""
    if num_groups == 1:
        return 1
    if num_groups % tp_size:
        raise ConfigError(
            f"num_groups={num_groups} over tp_size={tp_size} would be {num_groups / tp_size:.3g} groups per rank, and "
            f"each rank normalises whole ones; tp sizes that num_groups splits over: {divisors(num_groups)}. Pick one "
            "of them."
        )
    return num_groups // tp_size


def _axes(given: int | tuple[int, ...] | None, norm: LayerNorm | RmsNorm) -> tuple[int, ...]:
    """The axes to normalise: those given in a call, else the norm's own."""
    shape = norm.normalized_shape if given is None else _shape(given)
    if norm.tp_size > 1 and shape != norm.normalized_shape:
        raise ConfigError(
            f"normalized_shape={given} given to a norm with tp_size={norm.tp_size}, of whose axis this rank has "
            f"{norm.normalized_shape[0]}: it normalises that one only. Leave it out."
        )
    return shape


def _mean_over_ranks(x: Tensor, norm: LayerNorm | RmsNorm) -> Tensor:
    """The mean over the whole last axis, of which each rank has a part: float32 (..., 1)."""
    assert norm.tp_group is not None
    (own,) = norm.normalized_shape
    if x.shape[-1] != own:
        raise ConfigError(
            f"a norm of an axis of {own * norm.tp_size} over tp_size={norm.tp_size} has {own} of it on each rank; its "
            f"input has {x.shape[-1]}."
        )
    total = sum_over_ranks(functional.sum(x, -1, keepdim=True), norm.tp_group)
    return total * (1.0 / (own * norm.tp_size))


def _positive(eps: float) -> float:
    if not eps > 0:
        raise ConfigError(f"eps={eps} must be above 0.")
    return eps


def _known(dtype: str | None) -> str | None:
    if dtype is not None:
        weight_dtype(dtype)
    return dtype
