"""Layers that reduce over axes: reduce, softmax, normalization."""

from __future__ import annotations

from typing import Any

import numpy as np

from trtllm_ext.oracle.call import Call, axes_of
from trtllm_ext.oracle.pointwise import truncated_division
from trtllm_ext.oracle.values import Array, is_floating, member_name


def _mask_axes(call: Call, mask: Any, rank: int) -> tuple[int, ...]:
    try:
        axes = axes_of(int(mask), rank)
    except ValueError as error:
        call.refuse(str(error))
    if not axes:
        call.refuse("the axes mask names no dimension")
    return axes


def _extreme_of_nothing(dtype: np.dtype[Any], *, lowest: bool) -> Any:
    """The identity of MAX (lowest) or MIN: ReduceOperation's table for empty volumes."""
    if dtype.kind == "f":
        return -np.inf if lowest else np.inf
    return np.iinfo(dtype).min if lowest else np.iinfo(dtype).max


def _average(x: Array, axes: tuple[int, ...]) -> Array:
    """NaN for floats and 0 for integers over an empty volume; an integer average truncates toward zero."""
    count = int(np.prod([x.shape[axis] for axis in axes]))
    total = np.add.reduce(x, axis=axes, keepdims=True, dtype=x.dtype)
    if is_floating(x):
        return np.divide(total, np.float64(count))
    return truncated_division(total, np.full_like(total, count)) if count else np.zeros_like(total)


def reduce(call: Call) -> Array:
    """SUM, PROD, MAX, MIN or AVG over the axes of the mask. Integers keep their type and wrap."""
    layer = call.attributes("IReduceLayer")
    x = call.input(0)
    if x.dtype == np.bool_:
        call.refuse("booleans cannot be reduced; cast to int32 first")
    op = member_name(layer.op)
    axes = _mask_axes(call, layer.axes, x.ndim)
    if op == "SUM":
        result = np.add.reduce(x, axis=axes, keepdims=True, dtype=x.dtype)
    elif op == "PROD":
        result = np.multiply.reduce(x, axis=axes, keepdims=True, dtype=x.dtype)
    elif op in ("MAX", "MIN"):
        function = np.maximum if op == "MAX" else np.minimum
        start = _extreme_of_nothing(x.dtype, lowest=op == "MAX")
        result = function.reduce(x, axis=axes, keepdims=True, initial=start)
    elif op == "AVG":
        result = _average(x, axes)
    else:
        call.refuse(f"reduction {op} is not known here")
    return result if layer.keep_dims else np.squeeze(result, axis=axes)


def softmax(call: Call) -> Array:
    """exp(x) / sum exp(x) along the one axis of the mask, shifted by the maximum so that nothing overflows."""
    x = call.input(0)
    axes = _mask_axes(call, call.attributes("ISoftMaxLayer").axes, x.ndim)
    if len(axes) > 1:
        call.refuse(f"softmax runs along one axis, but the mask names {axes}")
    if not is_floating(x):
        call.refuse(f"softmax takes floats, not {x.dtype}")
    exponentials = np.exp(x - np.max(x, axis=axes, keepdims=True, initial=-np.inf))
    return np.asarray(exponentials / np.sum(exponentials, axis=axes, keepdims=True))


def _standardised(x: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    """(x - mean) / sqrt(variance + epsilon), mean and variance over the axes."""
    centred = x - np.mean(x, axis=axes, keepdims=True)
    variance = np.mean(np.square(centred), axis=axes, keepdims=True)
    return np.asarray(centred / np.sqrt(variance + epsilon))


def _per_channel(call: Call, coefficient: Array, channels: int, groups: int) -> Array:
    """Scale or bias of shape [1, groups, 1, ...] spread over the channels of each group; [1, C, 1, ...] as it is."""
    if coefficient.ndim < 2 or coefficient.shape[1] in (1, channels):
        return coefficient
    if coefficient.shape[1] != groups:
        call.refuse(
            f"scale and bias have {coefficient.shape[1]} entries along dimension 1; "
            f"give one for each of the {groups} groups or {channels} channels"
        )
    return np.repeat(coefficient, channels // groups, axis=1)


def normalization(call: Call) -> Array:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias over the axes of the mask.

    With num_groups > 1, dimension 1 is split into groups and each group is normalised together with the axes.
    """
    layer = call.attributes("INormalizationLayer")
    x, scale, bias = call.input(0), call.input(1), call.input(2)
    if not all(is_floating(value) for value in (x, scale, bias)):
        call.refuse("input, scale and bias must be floating")
    if not scale.ndim == bias.ndim == x.ndim:
        call.refuse(
            f"scale {scale.shape} and bias {bias.shape} must have as many dimensions as the input {x.shape}"
        )
    axes = _mask_axes(call, layer.axes, x.ndim)
    groups, epsilon = int(layer.num_groups), float(layer.epsilon)
    if groups == 1:
        normalised = _standardised(x, axes, epsilon)
    else:
        channels = x.shape[1] if x.ndim > 1 else 0
        if axes != tuple(range(2, x.ndim)) or groups < 1 or channels % groups:
            call.refuse(
                f"num_groups={groups} needs a divisor of the {channels} channels and an axes mask of all dimensions "
                f"after the channels, but the mask names {axes} of shape {x.shape}"
            )
        split = x.reshape(x.shape[0], groups, channels // groups, *x.shape[2:])
        normalised = _standardised(split, tuple(range(2, split.ndim)), epsilon).reshape(x.shape)
        scale = _per_channel(call, scale, channels, groups)
        bias = _per_channel(call, bias, channels, groups)
    try:
        return np.broadcast_to(scale, x.shape) * normalised + np.broadcast_to(bias, x.shape)
    except ValueError:
        call.refuse(f"scale {scale.shape} and bias {bias.shape} do not broadcast to the input {x.shape}")
