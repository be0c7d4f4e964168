"""Activation layers: formulas as in the documentation of `ActivationType`."""

from collections.abc import Callable

from trtllm_ext.lowering.element_types import FLOAT, INTEGERS
from trtllm_ext.lowering.layer import Layer
from trtllm_ext.lowering.registry import lowers
from trtllm_ext.lowering.values import Value

_PLAIN = {"RELU": "Relu", "SIGMOID": "Sigmoid", "TANH": "Tanh", "SOFTSIGN": "Softsign"}


@lowers("ACTIVATION")
def activation(layer: Layer) -> Value:
    """A function of each element; alpha and beta as each formula names them."""
    name: str = layer.api.type.name
    value = layer.operand(0)
    if name == "RELU" and value.onnx_type in INTEGERS:
        return layer.emitter.map("Max", value, layer.emitter.scalar(0, value.onnx_type))
    if value.onnx_type != FLOAT:
        raise layer.refusal(f"the activation {name} is not supported on an input of this type")
    if name in _PLAIN:
        return layer.emitter.map(_PLAIN[name], value)
    if name not in _PARAMETRIC:
        raise layer.refusal(f"the activation {name} is not supported")
    return _PARAMETRIC[name](layer, value)


def _leaky_relu(layer: Layer, value: Value) -> Value:
    return layer.emitter.map("LeakyRelu", value, alpha=float(layer.api.alpha))


def _elu(layer: Layer, value: Value) -> Value:
    return layer.emitter.map("Elu", value, alpha=float(layer.api.alpha))


def _selu(layer: Layer, value: Value) -> Value:
    return layer.emitter.map("Selu", value, alpha=float(layer.api.alpha), gamma=float(layer.api.beta))


def _softplus(layer: Layer, value: Value) -> Value:
    emitter = layer.emitter
    inner = emitter.map("Mul", value, emitter.scalar(layer.api.beta))
    return emitter.map("Mul", emitter.map("Softplus", inner), emitter.scalar(layer.api.alpha))


def _clip(layer: Layer, value: Value) -> Value:
    emitter = layer.emitter
    alpha, beta = float(layer.api.alpha), float(layer.api.beta)
    # max(alpha, min(beta, x)) is alpha where the bounds cross; Clip would give the other one.
    return emitter.node(
        "Clip", [value, emitter.scalar(alpha), emitter.scalar(max(alpha, beta))], FLOAT, value.shape
    )


def _hard_sigmoid(layer: Layer, value: Value) -> Value:
    return layer.emitter.map("HardSigmoid", value, alpha=float(layer.api.alpha), beta=float(layer.api.beta))


def _scaled_tanh(layer: Layer, value: Value) -> Value:
    emitter = layer.emitter
    inner = emitter.map("Mul", value, emitter.scalar(layer.api.beta))
    return emitter.map("Mul", emitter.map("Tanh", inner), emitter.scalar(layer.api.alpha))


def _thresholded_relu(layer: Layer, value: Value) -> Value:
    return layer.emitter.map("ThresholdedRelu", value, alpha=float(layer.api.alpha))


def _gelu_erf(layer: Layer, value: Value) -> Value:
    return layer.emitter.map("Gelu", value, approximate="none")


def _gelu_tanh(layer: Layer, value: Value) -> Value:
    return layer.emitter.map("Gelu", value, approximate="tanh")


_PARAMETRIC: dict[str, Callable[[Layer, Value], Value]] = {
    "LEAKY_RELU": _leaky_relu,
    "ELU": _elu,
    "SELU": _selu,
    "SOFTPLUS": _softplus,
    "CLIP": _clip,
    "HARD_SIGMOID": _hard_sigmoid,
    "SCALED_TANH": _scaled_tanh,
    "THRESHOLDED_RELU": _thresholded_relu,
    "GELU_ERF": _gelu_erf,
    "GELU_TANH": _gelu_tanh,
}
