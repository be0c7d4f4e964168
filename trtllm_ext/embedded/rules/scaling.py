"""Rules of scale and parametric ReLU."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from trtllm_ext.embedded.enums import ScaleMode
from trtllm_ext.embedded.rules.known import FLOATS, Known, OperandError, RuleError
from trtllm_ext.embedded.rules.typing import common_type, require_type
from trtllm_ext.embedded.rules.weights import check_weights


def scale(attributes: Mapping[str, Any], inputs: Sequence[Known], strongly_typed: bool) -> list[Known]:
    """(input * scale + shift) ** power; each of the weights may be empty."""
    [data] = inputs
    require_type(data.dtype, FLOATS, "a scale")
    if len(data.shape) not in (4, 5):
        raise OperandError(f"a scale takes an input of 4 or 5 dimensions, not {data.shape}; reshape it")
    lengths = _weighted_lengths(attributes["mode"], attributes["channel_axis"], data.shape)
    for name in ("scale", "shift", "power"):
        weights = attributes[name]
        if weights.size == 0:
            continue
        if -1 in lengths:
            raise RuleError(
                f"the lengths that {name} has weights for must be known, but of input {data.shape} they are {lengths}"
            )
        what = f"{name} in mode {attributes['mode'].name} for an input of shape {data.shape}"
        check_weights(weights, math.prod(lengths), data, what, strongly_typed)
    return [Known(data.dtype, data.shape)]


def _weighted_lengths(mode: ScaleMode, axis: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The lengths of the weights."""
    if mode == ScaleMode.UNIFORM:
        return ()
    if not 0 <= axis < len(shape):
        raise RuleError(
            f"channel_axis {axis} is out of range; the input has dimensions 0 to {len(shape) - 1}"
        )
    return shape[axis : axis + 1] if mode == ScaleMode.CHANNEL else shape[axis:]


def parametric_relu(
    attributes: Mapping[str, Any], inputs: Sequence[Known], strongly_typed: bool
) -> list[Known]:
    """The shape of input 0; the slopes, input 1, have its lengths or 1."""
    data, slopes = inputs
    dtype = common_type(inputs, strongly_typed, "a parametric ReLU")
    require_type(dtype, FLOATS, "a parametric ReLU")
    shape = list(data.shape)
    fits = len(slopes.shape) == len(shape) and all(
        slope in (1, -1, length) or length == -1 for slope, length in zip(slopes.shape, shape, strict=True)
    )
    if not fits:
        raise OperandError(
            f"slopes of shape {slopes.shape} do not broadcast to an input of shape {data.shape}; both need the same "
            "number of dimensions, and slopes the input's lengths or 1"
        )
    for axis, slope in enumerate(slopes.shape):
        if shape[axis] == -1 and slope not in (1, -1):
            shape[axis] = slope
    return [Known(dtype, tuple(shape))]
