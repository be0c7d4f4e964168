"""Scale and parametric ReLU."""

from typing import Any

from trtllm_ext.lowering.element_types import FLOAT
from trtllm_ext.lowering.layer import Layer
from trtllm_ext.lowering.registry import lowers
from trtllm_ext.lowering.values import Value
from trtllm_ext.lowering.weights import borrowed


@lowers("SCALE")
def scale(layer: Layer) -> Value:
    """(input * scale + shift) ** power; weights that are empty change nothing."""
    emitter, api = layer.emitter, layer.api
    value = layer.operand(0)
    for op_type, weights, what in (
        ("Mul", api.scale, "scale"),
        ("Add", api.shift, "shift"),
        ("Pow", api.power, "power"),
    ):
        if len(weights):
            value = emitter.map(op_type, value, _coefficients(layer, weights, what))
    return value


def _coefficients(layer: Layer, weights: Any, what: str) -> Value:
    """The weights in a shape that broadcasts to the input."""
    shape, axis, mode = layer.raw(0).shape, int(layer.api.channel_axis), layer.api.mode.name
    if mode == "UNIFORM":
        lengths: tuple[int, ...] = ()
    elif mode == "CHANNEL":
        lengths = (shape[axis],) + (1,) * (len(shape) - axis - 1)
    else:
        lengths = shape[axis:]
    return layer.as_operand(borrowed(layer, weights, lengths, what))


@lowers("PARAMETRIC_RELU")
def parametric_relu(layer: Layer) -> Value:
    """The input where it is not negative, else the input times a slope."""
    value, slopes = layer.operands()
    return layer.emitter.node("PRelu", [value, slopes], FLOAT, layer.output_shape)
