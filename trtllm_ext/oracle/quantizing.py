"""Layers between floats and quantized types: quantize, dequantize."""

from __future__ import annotations

import numpy as np

from trtllm_ext.oracle.call import Call
from trtllm_ext.oracle.values import Array

# The integers of each type; FP8 has numbers up to 448 instead.
_RANGE = {"INT8": (-128, 127), "INT4": (-8, 7)}
_FP8_MAX = 448.0
_FP8_SMALLEST_EXPONENT = -6
_FP8_FRACTION_BITS = 3


def quantize(call: Call) -> Array:
    """clamp(round(input / scale)), ties to even; NaN is 0 in an integer type and NaN in FP8."""
    layer = call.attributes("IQuantizeLayer")
    x = call.input(0)
    quotient = x / _spread_scale(call, x.shape, int(layer.axis))
    if call.output_type == "FP8":
        return _rounded_to_fp8(quotient)
    if call.output_type not in _RANGE:
        call.refuse(f"it makes {call.output_type}; quantize makes FP8, {', '.join(_RANGE)}")
    low, high = _RANGE[call.output_type]
    whole = np.clip(np.rint(quotient), low, high)
    return np.where(np.isnan(whole), 0.0, whole).astype(np.int8)


def dequantize(call: Call) -> Array:
    """input * scale."""
    layer = call.attributes("IDequantizeLayer")
    x = call.input(0)
    return np.asarray(x.astype(np.float64) * _spread_scale(call, x.shape, int(layer.axis)))


def _spread_scale(call: Call, shape: tuple[int, ...], axis: int) -> Array:
    """The scale as it broadcasts over the input: one number, one a channel along `axis`, or one a block, repeated."""
    scale = call.input(1)
    zero_point = call.optional(2)
    if zero_point is not None and bool(np.any(zero_point)):
        call.refuse("its zero point is not zero")
    if not bool(np.all(scale > 0)):
        call.refuse("a scale must be positive")
    if scale.size == 1:
        return scale.reshape(())
    if scale.ndim == 1:
        if not 0 <= axis < len(shape) or scale.shape[0] != shape[axis]:
            call.refuse(f"a scale of {scale.shape[0]} elements does not go along axis {axis} of {shape}")
        return scale.reshape((-1,) + (1,) * (len(shape) - 1 - axis))
    if scale.ndim != len(shape):
        call.refuse(f"a scale of shape {scale.shape} does not go over an input of shape {shape}")
    for dimension, (blocks, length) in enumerate(zip(scale.shape, shape, strict=True)):
        if blocks != length:
            if blocks == 0 or length % blocks:
                call.refuse(f"{length} elements of dimension {dimension} do not split into {blocks} blocks")
            scale = np.repeat(scale, length // blocks, axis=dimension)
    return scale


def _rounded_to_fp8(x: Array) -> Array:
    """The nearest number with 4 bits of exponent and 3 of fraction, the largest finite one beyond it."""
    _, exponent = np.frexp(np.where(np.isfinite(x), x, 1.0))
    step = np.exp2(np.maximum(exponent - 1, _FP8_SMALLEST_EXPONENT) - _FP8_FRACTION_BITS)
    return np.asarray(np.clip(np.rint(x / step) * step, -_FP8_MAX, _FP8_MAX))
