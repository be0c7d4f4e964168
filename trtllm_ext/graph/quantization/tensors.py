"""Tensors to and from quantised types, with given scales or with scales computed for each token."""

from typing import Any

import numpy as np

from trtllm_ext.backend import tensorrt
from trtllm_ext.graph.dtypes import is_float, to_trt_dtype
from trtllm_ext.graph.functional.activations import clip
from trtllm_ext.graph.functional.constants import cast, constant
from trtllm_ext.graph.functional.elementwise import div, maximum, minimum, mul
from trtllm_ext.graph.functional.operands import one_dim, require_tensor
from trtllm_ext.graph.functional.reduction import max, sum
from trtllm_ext.graph.functional.selection import select
from trtllm_ext.graph.functional.unary import abs, round
from trtllm_ext.graph.layer import add_layer, fail, output
from trtllm_ext.graph.network import default_net
from trtllm_ext.graph.tensor import Tensor
from trtllm_ext.runtime.dtypes import readable

_INT8_LIMIT = 127.0
_FP8_LIMIT = 448.0  # the largest number of e4m3
_SMALLEST = float(np.finfo(np.float32).tiny)


def quantize(input: Tensor, scale_factor: Tensor, dtype: Any, axis: int = -1) -> Tensor:
    """input / scale_factor, rounded (halves to even) and limited to what `dtype` holds.

    scale_factor: float32 or of the input's type; one number, of shape () or (1,), or a vector along `axis`.
    dtype: "int8" or "fp8", or a DataType. axis: may be negative; -1 with one number means no axis at all.
    One IQuantizeLayer.
    """
    to = to_trt_dtype(dtype)
    if not has_typed_layers() and readable(to) != "int8":
        version = getattr(tensorrt(), "__version__", "in use")
        raise fail(
            f"TensorRT {version} quantizes to int8 alone, not to {readable(to)}. Use int8, or TensorRT 10 or later."
        )
    with_type = (to,) if has_typed_layers() else ()
    layer = add_layer(
        "add_quantize", _float(input, "input"), _float(scale_factor, "scale_factor"), *with_type
    )
    layer.axis = _axis(input, scale_factor, axis)
    return output(layer)


def dequantize(input: Tensor, scale_factor: Tensor, axis: int = -1, output_type: Any = "float16") -> Tensor:
    """input * scale_factor, in `output_type` (a string or a DataType).

    input: int8 or fp8. scale_factor: float32 or of the type output_type; one number, or a vector along `axis`.
    One IDequantizeLayer.
    """
    to = to_trt_dtype(output_type)
    with_type = (to,) if has_typed_layers() else ()
    scale = _float(scale_factor, "scale_factor") if with_type else cast(scale_factor, "float32")
    layer = add_layer("add_dequantize", require_tensor(input, "input"), scale, *with_type)
    layer.axis = _axis(input, scale_factor, axis)
    if not default_net().strongly_typed:
        layer.precision = input.dtype
    return output(layer) if with_type else cast(output(layer), to)


def quantize_tensor(x: Tensor, scale: Tensor) -> Tensor:
    """x * scale, rounded (halves to even) and limited to int8.

    scale: one factor, the inverse of what `dequantize` takes; float32, which x is then cast to, or of its type.
    """
    if readable(_float(scale, "scale").dtype) == "float32":
        x = cast(x, "float32")
    return _to_int8(mul(x, scale))


def quantize_per_token(
    x: Tensor,
    clamp_val: Tensor | None = None,
    scale_dtype: Any = "float32",
    sum_per_token: bool = False,
    sum_dtype: Any = "float32",
) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]:
    """x as int8 with a scale for each row of the last dimension: x ~ quantised * scale.

    clamp_val: (lower, upper), float32 of shape (2,), that x is limited to first.
    Returns the int8 tensor; the scales, largest absolute value / 127, in scale_dtype, of size 1 in the last dimension;
    and with sum_per_token the sums of the rows in sum_dtype. A row of zeros has the scale 0. Computed in float32.
    """
    wide = _limited(x, clamp_val)
    largest = max(abs(wide), -1, keepdim=True)
    quantized = _to_int8(div(mul(wide, _INT8_LIMIT), maximum(largest, _SMALLEST)))
    scales = cast(div(largest, _INT8_LIMIT), "float32" if scale_dtype is None else scale_dtype)
    if not sum_per_token:
        return quantized, scales
    sums = sum(wide, -1, keepdim=True)
    return quantized, scales, cast(sums, "float32" if sum_dtype is None else sum_dtype)


def quantize_fp8_per_token(x: Tensor, clamp_val: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """x as fp8 (e4m3) with a float32 scale, largest absolute value / 448, for each row of the last dimension.

    Rounded to fp8 once, as TensorRT-LLM's plugin does; its form without the plugin rounds to whole numbers first.
    clamp_val: as for `quantize_per_token`.
    """
    wide = _limited(x, clamp_val)
    largest = max(abs(wide), -1, keepdim=True)
    scaled = div(mul(wide, _FP8_LIMIT), maximum(largest, _SMALLEST))
    one = constant(np.ones((), dtype=np.float32))
    return quantize(scaled, one, "fp8"), div(largest, _FP8_LIMIT)


def has_typed_layers() -> bool:
    """Whether quantize and dequantize layers are told their type; those of TensorRT 8.6 know int8 and float32 alone."""
    return hasattr(tensorrt().IQuantizeLayer, "to_type")


def _to_int8(x: Tensor) -> Tensor:
    return cast(clip(round(x), -128.0, 127.0), "int8")


def _limited(x: Tensor, clamp_val: Tensor | None) -> Tensor:
    wide = cast(_float(x, "x"), "float32")
    if clamp_val is None:
        return wide
    if require_tensor(clamp_val, "clamp_val").shape != (2,):
        raise fail(f"clamp_val is (lower, upper), of shape (2,); got the shape {clamp_val.shape}")
    limits = cast(clamp_val, "float32")
    return minimum(maximum(wide, select(limits, 0, 0)), select(limits, 0, 1))


def _float(tensor: Tensor, name: str) -> Tensor:
    if not is_float(require_tensor(tensor, name).dtype):
        raise fail(f"{name} is {readable(tensor.dtype)}; it takes float32, float16 or bfloat16")
    return tensor


def _axis(input: Tensor, scale: Tensor, axis: int) -> int:
    return -1 if axis == -1 and scale.rank() == 0 else one_dim(axis, input.rank())
