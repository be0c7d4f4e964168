"""The activations of the contract, as functions on the graph."""

from __future__ import annotations

import math

from trtllm_ext import backend
from trtllm_ext.checkpoint.contract import check_activation
from trtllm_ext.graph import Tensor, functional


def activate(x: Tensor, name: str) -> Tensor:
    """Apply the activation that the contract calls `name`, elementwise; shape and type stay.

    The formulas are in `checkpoint.ACTIVATIONS`. Raises ConfigError for a name that is not there.
    """
    return _FUNCTIONS[check_activation(name)](x)


def gelu_erf(x: Tensor) -> Tensor:
    """x/2 (1 + erf(x / sqrt(2))): Gaussian error linear units, Hendrycks and Gimpel 2016, the exact form."""
    trt = backend.tensorrt()
    if hasattr(trt.ActivationType, "GELU_ERF"):
        return functional.activation(x, trt.ActivationType.GELU_ERF)
    # TensorRT before 9 has the error function, but not this activation.
    erf = functional.unary(x * math.sqrt(0.5), trt.UnaryOperation.ERF)
    return x * 0.5 * (erf + 1.0)


def identity(x: Tensor) -> Tensor:
    return x


_FUNCTIONS = {
    "relu": functional.relu,
    "gelu_erf": gelu_erf,
    "gelu_tanh": functional.gelu,  # its tanh form
    "quick_gelu": functional.quick_gelu,
    "silu": functional.silu,
    "squared_relu": functional.squared_relu,
    "sigmoid": functional.sigmoid,
    "tanh": functional.tanh,
    "identity": identity,
}
