"""What layers and plugins compute, written down through `functional`: once, so that both give the same numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from trtllm_ext import backend
from trtllm_ext.checkpoint.activations import check_activation
from trtllm_ext.graph import Tensor, functional
from trtllm_ext.graph.quantization.tensors import quantize_fp8_per_token, quantize_per_token


def activate(x: Tensor, name: str) -> Tensor:
    """Apply the activation that the contract calls `name`, elementwise; shape and type stay.

    The formulas are in `checkpoint.ACTIVATIONS`. Raises ConfigError for a name that is not there.
    """
    return _ACTIVATIONS[check_activation(name)](x)


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


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
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


def gated_activation(
    fc: Tensor, gate: Tensor | None, hidden_act: str, clamp: float | None = None, gate_offset: float = 0.0
) -> Tensor:
    """act(fc) * gate; with a clamp c and an offset o: act(min(fc, c)) * (min(max(gate, -c), c) + o).

    fc, gate: of one shape and type, which the result has. The clamped form is GPT-OSS's. Without a gate the first
    factor alone.
    """
    if clamp is not None:
        fc = functional.minimum(fc, float(clamp))
    if gate is None:
        return activate(fc, hidden_act)
    if clamp is not None:
        gate = functional.clip(gate, -float(clamp), float(clamp))
    if gate_offset:
        gate = gate + float(gate_offset)
    return activate(fc, hidden_act) * gate


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x weight^T + bias. weight: (out_features, in_features)."""
    result = functional.matmul(x, weight, transb=True)
    return result if bias is None else result + bias


@dataclass(frozen=True)
class NormForm:
    """A norm but for its weights.

    kind: 'layer_norm' or 'rms_norm'. rounding: 'before_weight' rounds to the weight's type before the product with it,
    'after_weight' the product, once.
    """

    kind: str
    eps: float
    weight_offset: float = 0.0
    rounding: str = "after_weight"


def layer_norm(
    x: Tensor, shape: tuple[int, ...], weight: Tensor | None, bias: Tensor | None, form: NormForm
) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * (weight + weight_offset) + bias over the trailing axes of sizes `shape`.

    x: of the weight's type or wider. The result has x's type, or is float32 where the two differ and for an offset.
    """
    if weight is None or (x.dtype == weight.dtype and not form.weight_offset):
        return functional.layer_norm(x, shape, weight, bias, form.eps)
    bias = None if bias is None else float32(bias)
    return functional.layer_norm(float32(x), shape, offset(weight, form.weight_offset), bias, form.eps)


def rms_norm(
    x: Tensor, weight: Tensor | None, form: NormForm, over_root: Callable[[Tensor, Tensor | None], Tensor]
) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * (weight + weight_offset), the products where the rounding has them.

    over_root: x over its root, in x's type, times a weight of that type. x: of the weight's type or wider. The result
    is float32 where a float32 product is to be rounded by the caller.
    """
    if weight is None or (form.rounding == "before_weight" and x.dtype == weight.dtype):
        return over_root(x, weight)
    if form.rounding == "after_weight":
        return over_root(float32(x), offset(weight, form.weight_offset))
    return functional.cast(over_root(x, None), weight.dtype) * weight


def norm_of_rows(x: Tensor, weight: Tensor | None, bias: Tensor | None, form: NormForm) -> Tensor:
    """The norm over the last axis, not rounded to x's type where the formula has it wider."""
    shape = (x.shape[-1],)
    if form.kind == "layer_norm":
        return layer_norm(x, shape, weight, bias, form)
    if bias is not None and weight is not None and form.rounding == "before_weight":
        # The product and the bias are rounded together.
        normed = functional.rms_norm(x, shape, eps=form.eps)
        return float32(normed) * float32(weight) + float32(bias)
    normed = rms_norm(x, weight, form, lambda y, w: functional.rms_norm(y, shape, 1, w, form.eps))
    return normed if bias is None else float32(normed) + float32(bias)


def quantized_rows(x: Tensor, to: str) -> tuple[Tensor, Tensor]:
    """x over its row's scale, as 'int8' or 'float8_e4m3', and the scales: max|x| over the type's largest value."""
    if to == "int8":
        quantized, scales = quantize_per_token(x)[:2]
        return quantized, scales
    return quantize_fp8_per_token(x)


def float32(x: Tensor) -> Tensor:
    return functional.cast(x, "float32")


def offset(weight: Tensor, by: float) -> Tensor:
    """weight + by in float32: in a narrow type 1 + gamma would lose most of a small gamma."""
    weight = float32(weight)
    return weight + by if by else weight
