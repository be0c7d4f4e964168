"""Top-k, non-zero, scatter and one-hot layers: data is picked or put elsewhere, and stays what it is."""

from trtllm_ext.lowering.element_types import (
    BOOL,
    FLOAT,
    INT32,
    INT64,
    NARROW_FLOATS,
    UINT8,
    numpy_type_of,
)
from trtllm_ext.lowering.emitter import Emitter
from trtllm_ext.lowering.layer import Layer
from trtllm_ext.lowering.movement import reshape_to
from trtllm_ext.lowering.reduction import axes_of_mask
from trtllm_ext.lowering.registry import lowers
from trtllm_ext.lowering.values import Value

# What ONNX Runtime has a kernel of NonZero for; float32 holds all others exactly.
_NON_ZERO_TYPES = frozenset({FLOAT, INT32, INT64, UINT8, BOOL})


@lowers("TOPK")
def topk(layer: Layer) -> tuple[Value, Value]:
    """The largest or smallest elements in order, equal ones by index, and their indices."""
    emitter, shape = layer.emitter, layer.output_shape
    [axis] = axes_of_mask(layer.api.axes)
    # Widened only to be compared; rounding them back changes nothing.
    value = emitter.widened(layer.raw(0))
    if layer.has(1):
        count = reshape_to(emitter, emitter.cast(layer.raw(1), INT64), (1,))
    else:
        count = emitter.ints([int(layer.api.k)])
    found, indices = emitter.node_with_outputs(
        "TopK",
        [value, count],
        [(value.onnx_type, shape), (INT64, shape)],
        axis=axis,
        largest=int(layer.api.op.name == "MAX"),
        sorted=1,
    )
    return found, indices


@lowers("NON_ZERO")
def non_zero(layer: Layer) -> Value:
    """The positions of all elements other than zero, as the columns of a matrix."""
    emitter, value = layer.emitter, layer.raw(0)
    if value.onnx_type not in _NON_ZERO_TYPES:
        value = emitter.cast(value, FLOAT)
    if value.ndim:
        return emitter.node("NonZero", [value], INT64, layer.output_shape)
    # A scalar has no dimensions to tell a position by, but the runtime gives it one.
    positions = emitter.node("NonZero", [reshape_to(emitter, value, (1,))], INT64, (1, -1))
    ends = [positions, emitter.ints([0]), emitter.ints([0]), emitter.ints([0])]
    return emitter.node("Slice", ends, INT64, (0, -1))


@lowers("SCATTER")
def scatter(layer: Layer) -> Value:
    """The data with some elements or slices replaced."""
    emitter, mode = layer.emitter, layer.api.mode.name
    if mode not in ("ELEMENT", "ND"):
        raise layer.refusal(f"the scatter mode {mode} is not supported")
    data, indices, updates = layer.raw(0), layer.raw(1), layer.raw(2)
    carrier = FLOAT if layer.output_type in NARROW_FLOATS else layer.output_type
    data, updates = emitter.cast(data, carrier), emitter.cast(updates, carrier)
    if mode == "ELEMENT":
        inputs = [data, indices, updates]
        return emitter.node("ScatterElements", inputs, carrier, data.shape, axis=int(layer.api.axis))
    inputs = [data, emitter.cast(indices, INT64), updates]
    return emitter.node("ScatterND", inputs, carrier, data.shape)


@lowers("ONE_HOT")
def one_hot(layer: Layer) -> Value:
    """The second value where an index names the position along the new dimension, else the first."""
    emitter = layer.emitter
    indices, values = emitter.cast(layer.raw(0), INT64), layer.raw(1)
    # There are kernels for float32 and int64; one of the two holds any value exactly.
    values = emitter.cast(values, INT64 if numpy_type_of(values.onnx_type).kind in "biu" else FLOAT)
    depth = emitter.cast(layer.raw(2), INT64)
    if indices.ndim:
        axis = int(layer.api.axis)
        return emitter.node(
            "OneHot", [indices, depth, values], values.onnx_type, layer.output_shape, axis=axis
        )
    return _one_hot_of_scalar(emitter, indices, depth, values, layer.output_shape)


def _one_hot_of_scalar(
    emitter: Emitter, index: Value, depth: Value, values: Value, shape: tuple[int, ...]
) -> Value:
    """ONNX has no one-hot of a scalar: make it that of one index, and take the leading dimension away again."""
    index = reshape_to(emitter, index, (1,))
    rows = emitter.node("OneHot", [index, depth, values], values.onnx_type, (1, *shape), axis=-1)
    return reshape_to(emitter, rows, shape)
