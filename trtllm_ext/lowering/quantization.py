"""Quantize and dequantize layers.

Neither becomes QuantizeLinear or DequantizeLinear: ONNX Runtime moves those about and fuses them with what is
between. They are spelled out in arithmetic, which it leaves alone, and an integer product is made where both of its
operands are dequantized (see `integer_product`).
"""

from typing import NamedTuple

import numpy as np

from trtllm_ext.lowering.dequantized import Dequantized
from trtllm_ext.lowering.element_types import FLOAT, INT8, INT64
from trtllm_ext.lowering.emitter import Emitter
from trtllm_ext.lowering.layer import Layer
from trtllm_ext.lowering.movement import reshape_to, unsqueeze
from trtllm_ext.lowering.registry import lowers
from trtllm_ext.lowering.values import Value

_RANGE = {"INT8": (-128, 127), "INT4": (-8, 7)}


@lowers("QUANTIZE")
def quantize(layer: Layer) -> Value:
    """`clamp(round(input / scale))`; NaN becomes 0 in integers and stays NaN in FP8."""
    emitter = layer.emitter
    value, scale = layer.operand(0), _scale(layer)
    result = _scaled(emitter, "Div", value, scale)
    to_type = layer.view.outputs[0].dtype.name  # TensorRT 8.6 has no `to_type`
    if to_type not in _RANGE:
        # Rounded, ties to even, and clamped to the largest finite number by the cast to FP8.
        return result
    low, high = _RANGE[to_type]
    rounded = emitter.map("Round", result)
    bounds = [emitter.scalar(low), emitter.scalar(high)]
    return emitter.cast(emitter.node("Clip", [rounded, *bounds], FLOAT, rounded.shape), INT8)


@lowers("DEQUANTIZE")
def dequantize(layer: Layer) -> Value:
    """`input * scale`."""
    value, scale = layer.raw(0), _scale(layer)
    if value.onnx_type == INT8 and scale.blocked is None:
        behind = Dequantized(value, scale.value, scale.axis)
        layer.network.dequantized[id(layer.view.outputs[0])] = behind
    return _scaled(layer.emitter, "Mul", layer.emitter.cast(value, FLOAT), scale)


class _Scale(NamedTuple):
    """A scale in float32: one number, or 1-D along `axis`, or of the input's rank with blocks along `blocked`."""

    value: Value
    axis: int | None = None
    blocked: int | None = None


def _scale(layer: Layer) -> _Scale:
    given, value = layer.raw(1), layer.operand(1)
    if given.data is not None and not (given.data > 0).all():
        raise layer.refusal(f"a scale must be positive, but one is {given.data[~(given.data > 0)][0]}")
    _check_zero_point(layer)
    if all(length == 1 for length in value.shape):
        return _Scale(value)
    if value.ndim == 1:
        return _Scale(value, axis=int(layer.api.axis))
    shape = tuple(layer.view.inputs[0].shape)
    different = [axis for axis in (len(shape) - 2, len(shape) - 1) if shape[axis] != value.shape[axis]]
    return _Scale(value, blocked=different[0] if different else len(shape) - 1)


def _check_zero_point(layer: Layer) -> None:
    if not layer.has(2):
        return
    source = layer.network.producer(layer.view.inputs[2])
    if source is not None and source.kind == "CAST":
        source = layer.network.producer(source.inputs[0])
    if source is None or source.kind != "CONSTANT":
        raise layer.refusal("its zero point must be a constant, or the cast of one")
    weights = source.api.weights
    array = weights if isinstance(weights, np.ndarray) else layer.network.weights.get(source.name)
    if array is None:
        array = weights.packed_bytes() if hasattr(weights, "packed_bytes") else weights.numpy()
    if not isinstance(array, np.ndarray):
        raise layer.refusal("its zero point cannot be read through this module's Python API")
    if array.astype(float).any():
        raise layer.refusal("its zero point must be 0: only symmetric quantization is supported")


def _scaled(emitter: Emitter, op_type: str, value: Value, scale: _Scale) -> Value:
    """`value` times or over its scale."""
    factor = scale.value
    if scale.blocked is not None:
        return _scaled_blocks(emitter, op_type, value, factor, scale.blocked)
    if scale.axis is None:
        factor = reshape_to(emitter, factor, ())
    else:
        for _ in range(value.ndim - 1 - scale.axis):
            factor = unsqueeze(emitter, factor, factor.ndim)
    return emitter.node(op_type, [value, factor], FLOAT, value.shape)


def _scaled_blocks(emitter: Emitter, op_type: str, value: Value, factor: Value, axis: int) -> Value:
    count = factor.shape[axis]
    if count == value.shape[axis]:
        return emitter.node(op_type, [value, factor], FLOAT, value.shape)
    block = value.shape[axis] // count
    shape = (*value.shape[:axis], count, block, *value.shape[axis + 1 :])
    blocks = emitter.node(
        "Reshape", [value, _split(emitter, value, axis, (count, block))], FLOAT, shape, allowzero=1
    )
    scaled = emitter.node(op_type, [blocks, unsqueeze(emitter, factor, axis + 1)], FLOAT, shape)
    return emitter.node("Reshape", [scaled, emitter.shape_of(value)], FLOAT, value.shape, allowzero=1)


def _split(emitter: Emitter, value: Value, axis: int, into: tuple[int, int]) -> Value:
    """The shape of `value` with the length of one axis replaced by two; 1-D int64."""
    if value.is_static:
        return emitter.ints((*value.shape[:axis], *into, *value.shape[axis + 1 :]))
    parts: list[Value] = []
    for place in range(value.ndim):
        if place == axis:
            parts.append(emitter.ints(into))
        else:
            parts.append(unsqueeze(emitter, emitter.dim_of(value, place), 0))
    return emitter.node("Concat", parts, INT64, (value.ndim + 1,), axis=0)
