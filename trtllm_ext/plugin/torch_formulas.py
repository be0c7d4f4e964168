"""What the kernels compute, in torch on the CPU: arithmetic in float32, and every rounding where they have it."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from trtllm_ext.plugin import torch_checks as checks
from trtllm_ext.plugin.c_interface import Activation
from trtllm_ext.plugin.kernels import member

# By the names of `checkpoint.ACTIVATIONS`.
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "relu": torch.relu,
    "gelu_erf": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "silu": functional.silu,
    "squared_relu": lambda x: torch.relu(x).square(),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}
_LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}


def residual_norm(
    x: Tensor,
    residual: Tensor | None = None,
    bias: Tensor | None = None,
    weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    **settings: Any,
) -> tuple[Tensor, Tensor]:
    """`torch_ops.residual_norm`, of its arguments."""
    checks.check_norm_args(x, residual, bias, weight, norm_bias, settings)
    total = _added(x, bias, residual)
    normed = _normed(total, weight, norm_bias, **settings).to(x.dtype)
    return _sum_of(x, residual, bias, total), normed.contiguous()


def residual_norm_quantized(
    x: Tensor,
    residual: Tensor | None = None,
    bias: Tensor | None = None,
    weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    **settings: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """`torch_ops.residual_norm_quantized`, of its arguments."""
    checks.check_norm_args(x, residual, bias, weight, norm_bias, settings)
    dtype = settings.pop("dtype")
    total = _added(x, bias, residual)
    normed = _normed(total, weight, norm_bias, **settings)
    return (_sum_of(x, residual, bias, total), *_quantized(normed, dtype))


def gated_activation(
    fc: Tensor,
    gate: Tensor | None = None,
    fc_bias: Tensor | None = None,
    gate_bias: Tensor | None = None,
    **settings: Any,
) -> Tensor:
    """`torch_ops.gated_activation`, of its arguments."""
    checks.check_activation_args(fc, gate, fc_bias, gate_bias, settings["activation"])
    wide = None if gate is None else _biased(gate, gate_bias)
    return _gated(_biased(fc, fc_bias), wide, **settings).to(fc.dtype).contiguous()


def feed_forward(
    x: Tensor,
    fc_weight: Tensor,
    proj_weight: Tensor,
    gate_weight: Tensor | None = None,
    fc_bias: Tensor | None = None,
    gate_bias: Tensor | None = None,
    proj_bias: Tensor | None = None,
    residual: Tensor | None = None,
    **settings: Any,
) -> Tensor:
    """`torch_ops.feed_forward`, of its arguments."""
    checks.feed_forward_tensors(
        x, fc_weight, proj_weight, gate_weight, fc_bias, gate_bias, proj_bias, residual
    )
    member(Activation, settings["activation"])
    settings.pop("tf32")
    gate = None if gate_weight is None else _linear(x, gate_weight, gate_bias)
    inner = _gated(_linear(x, fc_weight, fc_bias), gate, **settings).to(x.dtype)
    y = _linear(inner, proj_weight, proj_bias)
    return (y if residual is None else y + residual.float()).to(x.dtype).contiguous()


def _sum_of(x: Tensor, residual: Tensor | None, bias: Tensor | None, total: Tensor) -> Tensor:
    return x.new_empty((0,)) if residual is None and bias is None else total.contiguous()


def _added(x: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
    """x + bias + residual, of x's type: rounded once."""
    total = x.float()
    for other in (bias, residual):
        if other is not None:
            total = total + other.float()
    return total.to(x.dtype)


def _normed(
    total: Tensor,
    weight: Tensor | None,
    norm_bias: Tensor | None,
    norm: str,
    eps: float,
    weight_offset: float,
    rounding: str,
) -> Tensor:
    """The norm of `total` over its last axis, float32, before the last rounding to its type."""
    value = total.float()
    if norm == "layer_norm":
        value = value - value.mean(dim=-1, keepdim=True)
    value = value * torch.rsqrt(value.square().mean(dim=-1, keepdim=True) + eps)
    if rounding == "before_weight":
        value = value.to(total.dtype).float()
    if weight is not None:
        value = value * (weight.float() + weight_offset)
    elif weight_offset:
        value = value * (1.0 + weight_offset)
    return value if norm_bias is None else value + norm_bias.float()


def _quantized(value: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """`value` as round(value / scale) of int8 or float8_e4m3fn, and its scales (..., 1) float32; zeros stay zeros."""
    largest = _LARGEST[dtype]
    scales = value.abs().amax(dim=-1, keepdim=True) / largest
    scaled = torch.where(scales > 0, value / scales, torch.zeros_like(value)).clamp(-largest, largest)
    return (scaled.round() if dtype == torch.int8 else scaled).to(dtype), scales


def _gated(fc: Tensor, gate: Tensor | None, activation: str, clamp: float, gate_offset: float) -> Tensor:
    """act(fc), times gate + gate_offset where there is a gate, with GPT-OSS's limits where clamp > 0; float32."""
    fc = fc.float()
    limit = clamp if clamp > 0 else math.inf
    inner = _ACTIVATIONS[activation](fc.clamp(max=limit))
    return inner if gate is None else inner * (gate.float().clamp(-limit, limit) + gate_offset)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x weight^T + bias, float32."""
    return functional.linear(x.float(), weight.float(), None if bias is None else bias.float())


def _biased(x: Tensor, bias: Tensor | None) -> Tensor:
    """x + bias, float32."""
    return x.float() if bias is None else x.float() + bias.float()
