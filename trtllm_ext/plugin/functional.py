"""The operations as functions on Tensors: each adds one plugin layer to the network being defined.

They have what the kernels compute in one pass; what they mean is written down in `formulas`. All tensors of one call
have one type: float32, float16 or bfloat16. Each raises GraphError for types and settings that the operation does not
have, and BackendError where there is no plugin (`plugin.load_plugins`).
"""

from __future__ import annotations

from enum import IntEnum
from typing import TypeVar

from trtllm_ext.checkpoint.activations import check_activation
from trtllm_ext.errors import GraphError
from trtllm_ext.graph import Tensor
from trtllm_ext.plugin.adding import add_operation
from trtllm_ext.plugin.c_interface import Activation, Norm, Rounding, Type
from trtllm_ext.plugin.feed_forward import FEED_FORWARD
from trtllm_ext.plugin.gated_activation import GATED_ACTIVATION
from trtllm_ext.plugin.residual_norm import RESIDUAL_NORM
from trtllm_ext.suggest import nearest

_Choice = TypeVar("_Choice", bound=IntEnum)


def residual_norm(
    x: Tensor,
    residual: Tensor | None = None,
    *,
    bias: Tensor | None = None,
    weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    norm: str | None,
    eps: float = 1e-5,
    weight_offset: float = 0.0,
    rounding: str = "after_weight",
    quantized_type: str | None = None,
    with_sum: bool = True,
) -> tuple[Tensor, ...]:
    """sum = x + bias + residual; normed = norm(sum) * (weight + weight_offset) + norm_bias.

    x, residual: (..., hidden_size). bias, weight, norm_bias: (hidden_size,).
    norm: 'layer_norm', 'rms_norm', or None for the sum alone. rounding: 'after_weight' rounds normed once,
        'before_weight' before the product with the weight and after it.
    quantized_type: 'int8' or 'float8_e4m3': rows over their scales in place of normed.
    Returns (sum, normed), (sum, quantized, scales (..., 1) float32), or (sum,); without `sum` unless with_sum.
    """
    settings = {
        "norm": _number(Norm, norm or "no_norm", "norm"),
        "eps": eps,
        "weight_offset": weight_offset,
        "rounding": _number(Rounding, rounding, "rounding"),
        "quantized_type": _number(Type, quantized_type or "no_type", "quantized_type"),
        "has_sum": int(with_sum),
    }
    if norm is not None and not eps > 0:
        raise GraphError(f"residual_norm: eps={eps} must be above 0.")
    if norm is None and (quantized_type is not None or not with_sum):
        raise GraphError(
            "residual_norm with norm=None gives the sum alone; leave quantized_type and with_sum out."
        )
    if settings["quantized_type"] in (Type.FLOAT32, Type.FLOAT16, Type.BFLOAT16):
        raise GraphError(f"residual_norm: quantized_type={quantized_type!r} is not 'int8' or 'float8_e4m3'.")
    inputs = {"x": x, "residual": residual, "bias": bias, "weight": weight, "norm_bias": norm_bias}
    return add_operation(RESIDUAL_NORM, settings, inputs)


def gated_activation(
    fc: Tensor,
    gate: Tensor | None = None,
    *,
    activation: str,
    clamp: float | None = None,
    gate_offset: float = 0.0,
) -> Tensor:
    """act(fc), or act(fc) * (gate + gate_offset); with a clamp c: act(min(fc, c)) * (clip(gate, -c, c) + gate_offset).

    fc, gate: (..., width), as the result. activation: a name of `checkpoint.ACTIVATIONS`.
    """
    settings = _activation(activation, clamp, gate_offset)
    (output,) = add_operation(GATED_ACTIVATION, settings, {"fc": fc, "gate": gate})
    return output


def feed_forward(
    x: Tensor,
    fc_weight: Tensor,
    proj_weight: Tensor,
    *,
    gate_weight: Tensor | None = None,
    fc_bias: Tensor | None = None,
    gate_bias: Tensor | None = None,
    proj_bias: Tensor | None = None,
    residual: Tensor | None = None,
    activation: str,
    clamp: float | None = None,
    gate_offset: float = 0.0,
    tf32: bool = False,
    max_num_tokens: int = 0,
) -> Tensor:
    """inner proj_weight^T + proj_bias + residual, with inner = gated_activation(x fc_weight^T + fc_bias, ...).

    x, residual: (..., hidden_size), as the result. fc_weight, gate_weight: (ffn_hidden_size, hidden_size); proj_weight:
        (hidden_size, ffn_hidden_size). fc_bias, gate_bias: (ffn_hidden_size,); proj_bias: (hidden_size,).
    tf32: float32 products may round their operands to TF32. max_num_tokens: most in one run; 0: as the profile says.
    """
    settings = {
        **_activation(activation, clamp, gate_offset),
        "tf32": int(tf32),
        "max_num_tokens": max_num_tokens,
    }
    inputs = {
        "x": x,
        "fc_weight": fc_weight,
        "proj_weight": proj_weight,
        "gate_weight": gate_weight,
        "fc_bias": fc_bias,
        "gate_bias": gate_bias,
        "proj_bias": proj_bias,
        "residual": residual,
    }
    (y,) = add_operation(FEED_FORWARD, settings, inputs)
    return y


def _activation(name: str, clamp: float | None, gate_offset: float) -> dict[str, float]:
    if clamp is not None and not clamp > 0:
        raise GraphError(f"clamp={clamp} must be above 0, or None for no limit.")
    number = Activation[check_activation(name).upper()]
    return {"activation": number, "clamp": clamp or 0.0, "gate_offset": gate_offset}


def _number(choices: type[_Choice], name: str, what: str) -> _Choice:
    names = {each.name.lower(): each for each in choices}
    if name not in names:
        raise GraphError(f"{what}={name!r} is not known. {nearest(name, names)}")
    return names[name]
