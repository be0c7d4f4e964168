"""Normalisation over the trailing dimensions."""

import math
from collections.abc import Sequence

from trtllm_ext.backend import tensorrt
from trtllm_ext.graph.dtypes import Scalar
from trtllm_ext.graph.functional.constants import cast
from trtllm_ext.graph.functional.elementwise import add, div, mul, pow
from trtllm_ext.graph.functional.inspection import shape
from trtllm_ext.graph.functional.operands import (
    dim_to_trt_axes,
    expand_rank,
    require_same_dtype,
    scalar_like,
)
from trtllm_ext.graph.functional.reduction import mean
from trtllm_ext.graph.functional.shaping import reshape_to, view
from trtllm_ext.graph.functional.unary import sqrt
from trtllm_ext.graph.layer import add_layer, fail, output
from trtllm_ext.graph.network import default_trtnet
from trtllm_ext.graph.tensor import Tensor


def layer_norm(
    input: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | Scalar | None = None,
    bias: Tensor | Scalar | None = None,
    eps: float = 1e-05,
    use_diff_of_squares: bool = True,
) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias over the trailing dimensions.

    The variance is the mean of squares.
    normalized_shape: the sizes of those dimensions. weight, bias: of that shape and the input's type, or numbers; 1 and
        0 by default (TensorRT-LLM needs them given).
    use_diff_of_squares: no effect, as in TensorRT-LLM.
    One INormalizationLayer, which computes in float32 whatever the type.
    Raises GraphError when the shapes or types do not fit. Formula: Ba et al., "Layer Normalization", 2016.
    """
    axes = _trailing(input, normalized_shape)
    scale = _operand(input, 1.0 if weight is None else weight, axes, "weight")
    shift = _operand(input, 0.0 if bias is None else bias, axes, "bias")
    return _normalized(input, scale, shift, axes, eps)


def rms_norm(
    input: Tensor,
    normalized_shape: int | Sequence[int],
    num_groups: int = 1,
    weight: Tensor | None = None,
    eps: float = 1e-06,
) -> Tensor:
    """x / sqrt(mean(x^2) + eps), computed in float32 and cast back, then times weight in the input's type.

    normalized_shape: the sizes of the trailing dimensions that the mean is over.
    num_groups: that many equal parts of the last dimension are normalised separately; then normalized_shape is that
        dimension alone.
    weight: of shape normalized_shape and the input's type.
    Raises GraphError when the shapes or types do not fit. Formula: Zhang and Sennrich, "Root Mean Square Layer
    Normalization", 2019.
    """
    trt = tensorrt()
    axes = _trailing(input, normalized_shape)
    x, dims = input, list(axes)
    if num_groups > 1:
        if len(axes) > 1:
            sizes = input.shape[axes[0] :]
            raise fail(
                f"rms_norm: num_groups={num_groups} splits one axis; normalized_shape {sizes} has {len(axes)}"
            )
        last = input.shape[-1]
        if last % num_groups:
            raise fail(f"rms_norm: the last dimension {last} does not split into num_groups={num_groups}")
        x = view(input, [0] * (input.rank() - 1) + [num_groups, last // num_groups])
        dims = [input.rank()]
    wide = cast(x, trt.DataType.FLOAT)
    root = sqrt(add(mean(pow(wide, 2.0), dims, keepdim=True), eps))
    normed = cast(div(wide, root), input.dtype)
    if num_groups > 1:
        normed = view(normed, [0] * (input.rank() - 1) + [last])
    return normed if weight is None else mul(normed, _operand(input, weight, axes, "weight"))


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-05,
) -> Tensor:
    """(x - mean) / sqrt(variance + eps) over each group of channels and all behind them, then * weight + bias.

    input: (batch, channels, ...); only the channels must be known. num_groups: equal parts of the channels.
    weight, bias: (channels,), of the input's type.
    Raises GraphError when the channels do not split, or shapes or types do not fit. Formula: Wu and He, "Group
    Normalization", 2018.
    """
    sizes = input.shape
    if len(sizes) < 2 or sizes[1] < 1 or num_groups < 1 or sizes[1] % num_groups:
        raise fail(f"group_norm splits the channels (dimension 1) of {sizes} into num_groups={num_groups}")
    whole = [shape(input, i) if size == -1 else size for i, size in enumerate(sizes)]
    parts = reshape_to(input, [whole[0], num_groups, sizes[1] // num_groups, *whole[2:]])
    axes = tuple(range(2, len(sizes) + 1))
    one, zero = (scalar_like(value, input.dtype, (1, num_groups, *(1 for _ in axes))) for value in (1.0, 0.0))
    result = reshape_to(_normalized(parts, one, zero, axes, eps), whole)
    for name, value, apply in (("weight", weight, mul), ("bias", bias, add)):
        if value is not None:
            if value.shape != sizes[1:2]:
                raise fail(f"{name} has the shape {value.shape}; there are {sizes[1]} channels")
            result = apply(result, view(value, [sizes[1], *(1 for _ in sizes[2:])]))
    return result


def _normalized(input: Tensor, scale: Tensor, bias: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    # TensorRT 11 has both and calls the first deprecated; they differ only for a layer with groups of its own.
    has_v2 = hasattr(default_trtnet(), "add_normalization_v2")
    method = "add_normalization_v2" if has_v2 else "add_normalization"
    layer = add_layer(method, input, scale, bias, dim_to_trt_axes(axes))
    layer.epsilon = eps
    return output(layer, input.dtype)


def _trailing(input: Tensor, normalized_shape: int | Sequence[int]) -> tuple[int, ...]:
    sizes = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    rank = input.rank()
    if not 0 < len(sizes) <= rank or sizes != input.shape[rank - len(sizes) :]:
        raise fail(f"normalized_shape {sizes} is not the end of the input's shape {input.shape}")
    return tuple(range(rank - len(sizes), rank))


def _operand(input: Tensor, value: Tensor | Scalar, axes: tuple[int, ...], name: str) -> Tensor:
    sizes = tuple(input.shape[axis] for axis in axes)
    if not isinstance(value, Tensor):
        return scalar_like(value, input.dtype, (1,) * (input.rank() - len(sizes)) + sizes)
    require_same_dtype(input, value)
    if value.shape != sizes and math.prod(value.shape) != 1:
        raise fail(f"{name} has the shape {value.shape}; the normalised dimensions are {sizes}")
    return expand_rank(value, input.rank())
