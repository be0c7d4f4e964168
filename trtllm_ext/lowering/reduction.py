"""Reduce and softmax layers."""

from trtllm_ext.lowering.element_types import BOOL, FLOAT, INT64
from trtllm_ext.lowering.emitter import Emitter
from trtllm_ext.lowering.integers import divide, product
from trtllm_ext.lowering.layer import Layer
from trtllm_ext.lowering.movement import unsqueeze
from trtllm_ext.lowering.registry import lowers
from trtllm_ext.lowering.values import Value

_REDUCE = {
    "SUM": "ReduceSum",
    "PROD": "ReduceProd",
    "MAX": "ReduceMax",
    "MIN": "ReduceMin",
    "AVG": "ReduceMean",
}


def axes_of_mask(mask: int) -> tuple[int, ...]:
    """The axes whose bits are set: bit i stands for axis i."""
    return tuple(axis for axis in range(int(mask).bit_length()) if int(mask) >> axis & 1)


def reduced_shape(shape: tuple[int, ...], axes: tuple[int, ...], keep: bool) -> tuple[int, ...]:
    """Shape after a reduction over `axes`."""
    if keep:
        return tuple(1 if axis in axes else length for axis, length in enumerate(shape))
    return tuple(length for axis, length in enumerate(shape) if axis not in axes)


def reduce_over(emitter: Emitter, op_type: str, value: Value, axes: tuple[int, ...], keep: bool) -> Value:
    """One ONNX reduction."""
    shape = reduced_shape(value.shape, axes, keep)
    return emitter.node(op_type, [value, emitter.ints(axes)], value.onnx_type, shape, keepdims=int(keep))


@lowers("REDUCE")
def reduce(layer: Layer) -> Value:
    """A reduction over the axes of a bit mask."""
    emitter = layer.emitter
    operation: str = layer.api.op.name
    axes, keep = axes_of_mask(layer.api.axes), bool(layer.api.keep_dims)
    value = layer.operand(0)
    if operation not in _REDUCE or value.onnx_type == BOOL:
        raise layer.refusal(f"the reduction {operation} is not supported on an input of this type")
    if not axes:
        raise layer.refusal("a reduction needs at least one axis")
    if operation == "AVG":
        return mean(emitter, value, axes, keep)
    if operation == "SUM" and value.onnx_type != FLOAT:
        return _integer_sum(emitter, value, axes, keep)
    if operation == "PROD" and value.onnx_type != FLOAT:
        return _integer_product(emitter, value, axes, keep)
    return reduce_over(emitter, _REDUCE[operation], value, axes, keep)


def mean(emitter: Emitter, value: Value, axes: tuple[int, ...], keep: bool) -> Value:
    """The average; over nothing it is NaN, and 0 for integers, whose average is rounded toward zero.

    The runtime's own is 0 over nothing, and goes through a float for integers.
    """
    if value.onnx_type == FLOAT and all(value.shape[axis] > 0 for axis in axes):
        return reduce_over(emitter, "ReduceMean", value, axes, keep)
    if value.onnx_type == FLOAT:
        total = reduce_over(emitter, "ReduceSum", value, axes, keep)
    else:
        total = _integer_sum(emitter, value, axes, keep)
    count = emitter.ints(1)
    for axis in axes:
        count = emitter.map("Mul", count, emitter.dim_of(value, axis))
    if value.onnx_type == FLOAT:
        return emitter.map("Div", total, emitter.cast(count, FLOAT))
    count = emitter.map("Max", count, emitter.ints(1))
    return divide(emitter, total, emitter.cast(count, value.onnx_type))


def _integer_sum(emitter: Emitter, value: Value, axes: tuple[int, ...], keep: bool) -> Value:
    """The sum modulo 2 ** bits.

    The runtime adds integers in double. Halves of 32 bits add up exactly there, up to 2 ** 21 of them.
    """
    if value.onnx_type != INT64:
        wide = reduce_over(emitter, "ReduceSum", emitter.cast(value, INT64), axes, keep)
        return emitter.cast(wide, value.onnx_type)
    base = emitter.scalar(1 << 32, INT64)
    high = emitter.map("Div", value, base)
    low = emitter.map("Sub", value, emitter.map("Mul", high, base))
    high, low = (reduce_over(emitter, "ReduceSum", half, axes, keep) for half in (high, low))
    return emitter.map("Add", emitter.map("Mul", high, base), low)


def _integer_product(emitter: Emitter, value: Value, axes: tuple[int, ...], keep: bool) -> Value:
    for axis in reversed(axes):
        value = product(emitter, value, axis)
    for axis in axes if keep else ():
        value = unsqueeze(emitter, value, axis)
    return value


@lowers("SOFTMAX")
def softmax(layer: Layer) -> Value:
    """exp(x - max) / sum over one axis, in float32."""
    axes = axes_of_mask(layer.api.axes)
    value = layer.operand(0)
    if len(axes) != 1 or value.onnx_type != FLOAT:
        raise layer.refusal(f"softmax takes one axis and a float input; it has axes {axes}")
    return layer.emitter.map("Softmax", value, axis=axes[0])
