"""Normalization layers: layer, instance and group norm."""

from trtllm_ext.lowering.element_types import FLOAT
from trtllm_ext.lowering.emitter import Emitter
from trtllm_ext.lowering.layer import Layer
from trtllm_ext.lowering.movement import reshape_to
from trtllm_ext.lowering.reduction import axes_of_mask, reduce_over
from trtllm_ext.lowering.registry import lowers
from trtllm_ext.lowering.values import Value


@lowers("NORMALIZATION")
def normalization(layer: Layer) -> Value:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias, in float32 whatever the compute precision asks for."""
    value, scale, bias = layer.operand(0), layer.operand(1), layer.operand(2)
    axes, epsilon = axes_of_mask(layer.api.axes), float(layer.api.epsilon)
    groups = int(layer.api.num_groups)
    if not axes:
        raise layer.refusal("a normalization needs at least one axis")
    if groups != 1:
        return _group_norm(layer, value, scale, bias, groups, epsilon)
    tail = axes == tuple(range(axes[0], value.ndim))
    if tail and _covers(scale, value, axes[0]) and _covers(bias, value, axes[0]):
        return _layer_norm(layer.emitter, value, scale, bias, axes[0], epsilon)
    return _scaled(layer.emitter, _normalized(layer.emitter, value, axes, epsilon), scale, bias)


def _covers(parameter: Value, value: Value, first_axis: int) -> bool:
    """Whether a scale or bias has exactly the normalized lengths behind lengths of 1."""
    lengths = value.shape[first_axis:]
    return parameter.shape == (1,) * first_axis + lengths and min(lengths) >= 0


def _layer_norm(
    emitter: Emitter, value: Value, scale: Value, bias: Value, axis: int, epsilon: float
) -> Value:
    lengths = value.shape[axis:]
    inputs = [value, reshape_to(emitter, scale, lengths), reshape_to(emitter, bias, lengths)]
    return emitter.node("LayerNormalization", inputs, FLOAT, value.shape, axis=axis, epsilon=epsilon)


def _normalized(emitter: Emitter, value: Value, axes: tuple[int, ...], epsilon: float) -> Value:
    mean = reduce_over(emitter, "ReduceMean", value, axes, keep=True)
    centred = emitter.map("Sub", value, mean)
    variance = reduce_over(emitter, "ReduceMean", emitter.map("Mul", centred, centred), axes, keep=True)
    deviation = emitter.map("Sqrt", emitter.map("Add", variance, emitter.scalar(epsilon)))
    return emitter.map("Div", centred, deviation)


def _scaled(emitter: Emitter, value: Value, scale: Value, bias: Value) -> Value:
    return emitter.map("Add", emitter.map("Mul", value, scale), bias)


def _group_norm(layer: Layer, value: Value, scale: Value, bias: Value, groups: int, epsilon: float) -> Value:
    """Channels (axis 1) in `groups` parts, each normalized over its channels and all axes after them.

    Scale and bias have one element a channel, or one a group.
    """
    emitter = layer.emitter
    channels = value.shape[1]
    if value.ndim < 3 or channels < 0 or channels % groups:
        raise layer.refusal(
            f"{groups} groups need a channel axis 1 of a known length that they divide; shape {value.shape}"
        )
    one = emitter.ints([1])
    shape = emitter.shape_of(value)
    batch = emitter.node("Slice", [shape, emitter.ints([0]), one, emitter.ints([0])], shape.onnx_type, (1,))
    rest = emitter.node(
        "Slice",
        [shape, emitter.ints([2]), emitter.ints([value.ndim]), emitter.ints([0])],
        shape.onnx_type,
        (value.ndim - 2,),
    )
    split_shape = (value.shape[0], groups, channels // groups, *value.shape[2:])
    split = emitter.node(
        "Concat",
        [batch, emitter.ints([groups, channels // groups]), rest],
        shape.onnx_type,
        (value.ndim + 1,),
        axis=0,
    )
    grouped = emitter.node("Reshape", [value, split], FLOAT, split_shape, allowzero=1)
    result = _normalized(emitter, grouped, tuple(range(2, value.ndim + 1)), epsilon)
    if scale.shape[1] == groups != channels:
        parameter_shape = (1, groups, 1, *(1 for _ in value.shape[2:]))
        scale, bias = (reshape_to(emitter, parameter, parameter_shape) for parameter in (scale, bias))
        result = _scaled(emitter, result, scale, bias)
        return emitter.node("Reshape", [result, shape], FLOAT, value.shape, allowzero=1)
    result = emitter.node("Reshape", [result, shape], FLOAT, value.shape, allowzero=1)
    return _scaled(emitter, result, scale, bias)
