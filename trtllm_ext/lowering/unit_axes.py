"""Squeeze and unsqueeze layers."""

from trtllm_ext.lowering.element_types import INT64
from trtllm_ext.lowering.layer import Layer
from trtllm_ext.lowering.movement import squeeze, unsqueeze
from trtllm_ext.lowering.registry import lowers
from trtllm_ext.lowering.values import Value


@lowers("SQUEEZE")
def squeeze_layer(layer: Layer) -> Value:
    """The input without dimensions of length 1."""
    value = layer.raw(0)
    axes = axes_of(layer, value.ndim)
    if axes is None:
        return _by_tensor(layer, "Squeeze", value)
    for axis in sorted(axes, reverse=True):
        value = squeeze(layer.emitter, value, axis)
    return value


@lowers("UNSQUEEZE")
def unsqueeze_layer(layer: Layer) -> Value:
    """The input with dimensions of length 1 put in."""
    value = layer.raw(0)
    axes = axes_of(layer, len(layer.output_shape))
    if axes is None:
        return _by_tensor(layer, "Unsqueeze", value)
    for axis in sorted(axes):
        value = unsqueeze(layer.emitter, value, axis)
    return value


def _by_tensor(layer: Layer, op_type: str, value: Value) -> Value:
    """The network knows the axes, being constant, but they are computed in a way that is not followed here."""
    axes = layer.emitter.cast(layer.raw(1), INT64)
    return layer.emitter.node(op_type, [value, axes], value.onnx_type, layer.output_shape)


def axes_of(layer: Layer, rank: int) -> tuple[int, ...] | None:
    """The axes in input 1, negative ones counted from behind; None if they are not known here."""
    axes = layer.raw(1).known_ints()
    return None if axes is None else tuple(axis % rank for axis in axes)
