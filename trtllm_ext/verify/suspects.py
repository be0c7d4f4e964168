"""What in a wrong sublayer of the network the contract does not speak of: its activations."""

from __future__ import annotations

from typing import Any

from trtllm_ext import backend
from trtllm_ext.oracle.values import member_name
from trtllm_ext.verify.between import below_root, between, kind_of

# What an activation of the contract can be made of: members of trt.ActivationType, and ERF of trt.UnaryOperation.
# A release without GELU_TANH has TANH in its place, sigmoid can be computed by tanh.
_MADE_OF = {
    "gelu_erf": ("GELU_ERF", "ERF"),
    "gelu_tanh": ("GELU_TANH", "TANH"),
    "identity": (),
    "quick_gelu": ("SIGMOID", "TANH"),
    "relu": ("RELU",),
    "sigmoid": ("SIGMOID", "TANH"),
    "silu": ("SIGMOID", "TANH"),
    "squared_relu": ("RELU",),
    "tanh": ("TANH",),
}
_ACTIVATIONS = frozenset(kind for kinds in _MADE_OF.values() for kind in kinds) | {"SOFTPLUS", "ELU", "SELU"}


def foreign_activations(network: Any, last: str, earlier: list[str], activation: str) -> str:
    """A sentence where the layers up to a tensor hold activations, and none that the contract's is made of; else "".

    last: a sublayer's contribution; earlier: the tensors before it. activation: the contract's name.
    """
    layers = list(between(network, last, earlier))
    if any(kind_of(layer).startswith("PLUGIN") for layer in layers):  # which may hold any activation
        return ""
    found, wanted = _activations(layers), _MADE_OF.get(activation)
    if not wanted or any(kind in wanted for _, kind in found):  # without one, routers and gates have theirs
        return ""
    made_of = " or ".join(wanted)
    if not found:
        return f"It has no activation, and the contract says {activation} ({made_of})."
    layer, kind = found[0]
    return f"Its activation is {kind} (layer {below_root(layer)}), and the contract says {activation} ({made_of})."


def _activations(layers: list[Any]) -> list[tuple[str, str]]:
    """Name and function of each activation, and of each ERF."""
    trt, found = backend.tensorrt(), []
    for layer in layers:
        name, kind = str(layer.name), kind_of(layer)
        if kind == "ACTIVATION":
            _become(layer, trt.IActivationLayer)
            found.append((name, member_name(trt.IActivationLayer.type.__get__(layer, type(layer)))))
        elif kind == "UNARY":
            _become(layer, trt.IUnaryLayer)
            found.append((name, member_name(layer.op)))
    return [(name, function) for name, function in found if function in _ACTIVATIONS]


def _become(layer: Any, wanted: Any) -> None:
    if not isinstance(layer, wanted):
        layer.__class__ = wanted
