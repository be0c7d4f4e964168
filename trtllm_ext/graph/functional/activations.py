"""Activation functions, gated ones included.

All are evaluated in the type of their input; nothing is upcast here.
"""

import math
from typing import Any

from trtllm_ext.backend import tensorrt
from trtllm_ext.graph.functional.elementwise import add, gt, minimum, mul, pow
from trtllm_ext.graph.functional.operands import require_tensor
from trtllm_ext.graph.functional.selection import where
from trtllm_ext.graph.functional.slicing import chunk, slice_axis
from trtllm_ext.graph.layer import add_layer, fail, output
from trtllm_ext.graph.tensor import Tensor


def activation(input: Tensor, act_type: Any) -> Tensor:
    """`act_type` (a `trt.ActivationType`) of a tensor, with TensorRT's default alpha and beta."""
    return output(add_layer("add_activation", require_tensor(input, "input"), act_type), input.dtype)


def relu(input: Tensor) -> Tensor:
    """max(x, 0)."""
    return activation(input, tensorrt().ActivationType.RELU)


def tanh(input: Tensor) -> Tensor:
    """The hyperbolic tangent."""
    return activation(input, tensorrt().ActivationType.TANH)


def sigmoid(input: Tensor) -> Tensor:
    """1 / (1 + exp(-x))."""
    return activation(input, tensorrt().ActivationType.SIGMOID)


def silu(input: Tensor) -> Tensor:
    """x * sigmoid(x)."""
    return mul(input, sigmoid(input))


def gelu(x: Tensor) -> Tensor:
    """The tanh approximation, as in TensorRT-LLM: 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).

    The form with erf is `activation(x, trt.ActivationType.GELU_ERF)`. One layer where TensorRT has GELU_TANH, else
    composed. Formula: Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016.
    """
    act_type = getattr(tensorrt().ActivationType, "GELU_TANH", None)
    if act_type is not None:
        return activation(x, act_type)
    inner = mul(add(x, mul(pow(x, 3.0), 0.044715)), math.sqrt(2.0 / math.pi))
    return mul(mul(x, 0.5), add(tanh(inner), 1.0))


def quick_gelu(x: Tensor) -> Tensor:
    """x * sigmoid(1.702 x)."""
    return mul(x, sigmoid(mul(x, 1.702)))


def squared_relu(x: Tensor) -> Tensor:
    """max(x, 0)^2. Formula: So et al., "Primer", 2021."""
    return pow(relu(x), 2.0)


def softplus(input: Tensor, beta: float, threshold: float) -> Tensor:
    """log(1 + exp(beta x)) / beta; x itself where beta x > threshold, as in torch."""
    layer = add_layer("add_activation", require_tensor(input, "input"), tensorrt().ActivationType.SOFTPLUS)
    # TensorRT's SOFTPLUS is alpha * log(exp(beta * x) + 1).
    layer.alpha = 1.0 / beta
    layer.beta = beta
    smooth = output(layer, input.dtype)
    return where(gt(mul(input, float(beta)), float(threshold)), input, smooth)


def clip(input: Tensor, alpha: float, beta: float) -> Tensor:
    """x limited to alpha..beta."""
    layer = add_layer("add_activation", require_tensor(input, "input"), tensorrt().ActivationType.CLIP)
    layer.alpha = alpha
    layer.beta = beta
    return output(layer, input.dtype)


def swiglu(input: Tensor) -> Tensor:
    """a * silu(b) of the halves (a, b) of the last dimension: the second half is the activated one.

    Raises GraphError when the last dimension is odd. Formula: Shazeer, "GLU Variants Improve Transformer", 2020.
    """
    linear, gate = _halves(input)
    return mul(linear, silu(gate))


def geglu(x: Tensor) -> Tensor:
    """a * gelu(b) of the halves (a, b) of the last dimension, with the tanh form of GELU.

    Raises GraphError when the last dimension is odd.
    """
    linear, gate = _halves(x)
    return mul(linear, gelu(gate))


def gegelu(x: Tensor, limit: float | None = None) -> Tensor:
    """quick_gelu(a) * (b + 1) of the interleaved a = x[..., 0::2] and b = x[..., 1::2].

    limit: a is limited from above to it, b to -limit..limit.
    Raises GraphError when the last dimension is odd.
    """
    half = _half_of_last(x)
    activated = slice_axis(x, -1, 0, half, 2)
    linear = slice_axis(x, -1, 1, half, 2)
    if limit is not None:
        activated = minimum(activated, float(limit))
        linear = clip(linear, -limit, limit)
    return mul(quick_gelu(activated), add(linear, 1.0))


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    _half_of_last(x)
    first, second = chunk(x, 2, dim=-1)
    return first, second


def _half_of_last(x: Tensor) -> int:
    size = require_tensor(x, "x").shape[-1]
    if size < 0 or size % 2:
        raise fail(
            f"the last dimension is split in halves; it must be even and known, got the shape {x.shape}"
        )
    return size // 2
