"""Fill layers: evenly spaced numbers."""

import numpy as np

from trtllm_ext.lowering.element_types import FLOAT, INT64, numpy_type_of
from trtllm_ext.lowering.layer import Layer
from trtllm_ext.lowering.movement import unsqueeze
from trtllm_ext.lowering.registry import lowers
from trtllm_ext.lowering.values import Value

# Results of up to this many elements are computed here when everything about them is known.
_FOLDED_ELEMENTS = 4096


@lowers("FILL")
def fill(layer: Layer) -> Value:
    """start + sum over axes of index * step, in the output's type (float32 where that is narrower)."""
    if layer.api.operation.name != "LINSPACE":
        raise layer.refusal(f"the fill operation {layer.api.operation.name} is not supported; LINSPACE is")
    emitter, rank = layer.emitter, len(layer.output_shape)
    compute = layer.output_type if layer.output_type in (INT64, FLOAT) else _compute_type(layer)
    start = (
        emitter.cast(layer.operand(1), compute) if layer.has(1) else emitter.scalar(layer.api.alpha, compute)
    )
    if layer.has(2):
        steps = emitter.cast(layer.operand(2), compute)
    else:
        steps = emitter.keep(np.full((rank,), layer.api.beta, numpy_type_of(compute)))
    if start.ndim:
        start = emitter.node("Reshape", [start, emitter.ints([])], compute, ())
    folded = _folded(layer, start, steps)
    if folded is not None:
        return emitter.keep(folded)
    result = start
    for axis in range(rank):
        ramp = emitter.map(
            "Mul", emitter.cast(_numbers(layer, axis), compute), _step(layer, steps, axis, rank)
        )
        for _ in range(axis + 1, rank):
            ramp = unsqueeze(emitter, ramp, ramp.ndim)
        result = emitter.map("Add", result, ramp)
    return result


def _compute_type(layer: Layer) -> int:
    """int32 is computed in int64, exactly, and narrow floats in float32."""
    return INT64 if numpy_type_of(layer.output_type).kind == "i" else FLOAT


def _numbers(layer: Layer, axis: int) -> Value:
    """0 .. length - 1 of one axis, int64."""
    emitter = layer.emitter
    length = layer.output_shape[axis]
    if length >= 0:
        count = emitter.ints(length)
    elif layer.has(0):
        count = emitter.cast(emitter.element(layer.raw(0), axis), INT64)
    else:
        raise layer.refusal("its shape is neither given nor an input")
    return emitter.node("Range", [emitter.ints(0), count, emitter.ints(1)], INT64, (length,))


def _step(layer: Layer, steps: Value, axis: int, rank: int) -> Value:
    if steps.ndim == 0:
        return steps
    if steps.data is not None:
        return layer.emitter.keep(steps.array()[axis if steps.shape[0] == rank else 0])
    return layer.emitter.element(steps, axis)


def _folded(layer: Layer, start: Value, steps: Value) -> np.ndarray | None:
    shape = layer.output_shape
    if start.data is None or steps.data is None or min(shape, default=0) < 0:
        return None
    if int(np.prod(shape)) > _FOLDED_ELEMENTS:
        return None
    result = np.broadcast_to(start.array(), shape)
    for axis in range(len(shape)):
        step = steps.data[axis if steps.data.size > 1 else 0]
        ramp = np.arange(shape[axis]).astype(result.dtype) * step
        result = result + ramp.reshape(-1, *(1,) * (len(shape) - axis - 1))
    return np.ascontiguousarray(result)
