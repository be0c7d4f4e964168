"""Layers that scale elements: scale and parametric ReLU."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from trtllm_ext.oracle.call import Call
from trtllm_ext.oracle.values import Array, is_floating, member_name, widened
from trtllm_ext.oracle.weights import stored_values


def scale(call: Call) -> Array:
    """(x * scale + shift) ** power, each of them 1, 0 and 1 where it has no weights."""
    layer = call.attributes("IScaleLayer")
    x = call.input(0)
    if not is_floating(x):
        call.refuse(f"a scale takes floats, not {x.dtype}")
    scaled = x * _spread(call, layer, "scale", 1.0) + _spread(call, layer, "shift", 0.0)
    return np.asarray(np.power(scaled, _spread(call, layer, "power", 1.0)))


def _spread(call: Call, layer: Any, role: str, default: float) -> Array:
    """Weights in a shape that broadcasts to the input."""
    weights = getattr(layer, role)
    if len(weights) == 0:
        return np.array(default)
    shape, axis, mode = call.input(0).shape, int(layer.channel_axis), member_name(layer.mode)
    wanted = {
        "UNIFORM": (1,) * len(shape),
        "CHANNEL": tuple(length if place == axis else 1 for place, length in enumerate(shape)),
        "ELEMENTWISE": tuple(length if place >= axis else 1 for place, length in enumerate(shape)),
    }[mode]
    values = widened(stored_values(weights, call.known_weights(role)))
    if values.size != math.prod(wanted):
        call.refuse(f"{values.size} weights do not fill {wanted}, which mode {mode} needs for {shape}")
    return values.reshape(wanted)


def parametric_relu(call: Call) -> Array:
    """x where it is not negative, else x times its slope; slopes have the lengths of x, or 1."""
    x, slopes = call.input(0), call.input(1)
    call.same_kind(x, slopes)
    if slopes.ndim != x.ndim or any(s not in (1, n) for s, n in zip(slopes.shape, x.shape, strict=True)):
        call.refuse(f"slopes of shape {slopes.shape} do not broadcast to {x.shape}")
    return np.asarray(np.where(x < 0, x * slopes, x))
