"""What the operators of torch_ops refuse, on every device alike."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trtllm_ext.errors import InputError
from trtllm_ext.plugin.c_interface import Activation
from trtllm_ext.plugin.kernels import member
from trtllm_ext.suggest import nearest

TYPES = (torch.float32, torch.float16, torch.bfloat16)
QUANTIZED_TYPES = (torch.int8, torch.float8_e4m3fn)
NORMS, ROUNDINGS = ("layer_norm", "rms_norm"), ("after_weight", "before_weight")
# The tensors of feed_forward, in its order.
_FEED_FORWARD = (
    *("x", "fc_weight", "proj_weight", "gate_weight"),
    *("fc_bias", "gate_bias", "proj_bias", "residual"),
)


def check_norm_args(
    x: Tensor,
    residual: Tensor | None,
    bias: Tensor | None,
    weight: Tensor | None,
    norm_bias: Tensor | None,
    settings: Mapping[str, Any],
) -> None:
    """Raise InputError for tensors that do not fit x, and for settings that there are none of."""
    _check_type(x, "x")
    _check_like("residual", residual, x, x.shape)
    for name, value in (("bias", bias), ("weight", weight), ("norm_bias", norm_bias)):
        _check_like(name, value, x, x.shape[-1:])
    for name, known in (("norm", NORMS), ("rounding", ROUNDINGS)):
        if settings[name] not in known:
            raise InputError(f"{name}={settings[name]!r} is not known. {nearest(settings[name], known)}")
    if settings["rounding"] == "before_weight" and settings["weight_offset"]:
        raise InputError(
            "weight_offset is for rounding='after_weight' alone: models that have it round once."
        )
    if not settings["eps"] > 0:
        raise InputError(f"eps={settings['eps']} must be above 0.")
    if settings.get("dtype", torch.int8) not in QUANTIZED_TYPES:
        raise InputError(f"dtype={settings['dtype']}; expected torch.int8 or torch.float8_e4m3fn.")


def check_activation_args(
    fc: Tensor, gate: Tensor | None, fc_bias: Tensor | None, gate_bias: Tensor | None, activation: str
) -> None:
    """Raise InputError for tensors that do not fit fc, and ConfigError for an unknown activation."""
    _check_type(fc, "fc")
    _check_like("gate", gate, fc, fc.shape)
    _check_like("fc_bias", fc_bias, fc, fc.shape[-1:])
    _check_like("gate_bias", gate_bias, fc, fc.shape[-1:])
    if gate_bias is not None and gate is None:
        raise InputError("gate_bias is given, and no gate to add it to.")
    member(Activation, activation)


def feed_forward_tensors(x: Tensor, *others: Tensor | None) -> dict[str, Tensor | None]:
    """The tensors of feed_forward by name. Raises InputError for those that do not fit each other."""
    tensors = dict(zip(_FEED_FORWARD, (x, *others), strict=True))
    fc_weight = tensors["fc_weight"]
    assert fc_weight is not None
    _check_type(x, "x")
    hidden, wide = x.shape[-1], fc_weight.shape[0]
    shapes = {
        "fc_weight": (wide, hidden),
        "proj_weight": (hidden, wide),
        "gate_weight": (wide, hidden),
        "fc_bias": (wide,),
        "gate_bias": (wide,),
        "proj_bias": (hidden,),
        "residual": tuple(x.shape),
    }
    for name, shape in shapes.items():
        _check_like(name, tensors[name], x, shape)
    if tensors["gate_bias"] is not None and tensors["gate_weight"] is None:
        raise InputError("gate_bias is given, and no gate_weight whose product it is added to.")
    return tensors


def _check_type(x: Tensor, name: str) -> None:
    if x.dtype not in TYPES or x.dim() == 0:
        raise InputError(
            f"{name} is {x.dtype} of {x.dim()} dimensions; expected (..., width) of float32, float16 or bfloat16."
        )


def _check_like(name: str, value: Tensor | None, x: Tensor, shape: tuple[int, ...]) -> None:
    if value is None:
        return
    if value.dtype != x.dtype or tuple(value.shape) != tuple(shape) or value.device != x.device:
        raise InputError(
            f"{name} is {value.dtype} {tuple(value.shape)} on {value.device}; expected {x.dtype} {tuple(shape)} on "
            f"{x.device}."
        )
