"""The rule of resize."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trtllm_ext.embedded.enums import InterpolationMode
from trtllm_ext.embedded.rules.known import FLOATS, Known, OperandError, RuleError
from trtllm_ext.embedded.rules.movement import length_of_vector
from trtllm_ext.embedded.rules.typing import require_indices, require_type

# How many of the last dimensions each mode interpolates.
INNERMOST = {InterpolationMode.NEAREST: 8, InterpolationMode.LINEAR: 3, InterpolationMode.CUBIC: 2}


def resize(
    attributes: Mapping[str, Any], inputs: Sequence[Known | None], strongly_typed: bool
) -> list[Known]:
    """The shape of input 1 where there is one, else `shape`, else the lengths times `scales`, rounded down."""
    data, target = [*inputs, None][:2]
    if data is None:
        raise OperandError("input 0 is missing")
    require_type(data.dtype, FLOATS, "a resize")
    rank = len(data.shape)
    if rank == 0:
        raise OperandError("a scalar cannot be resized; reshape it first")
    lengths = _lengths(attributes, data.shape, target)
    if len(lengths) != rank:
        raise RuleError(f"a tensor of shape {data.shape} cannot be resized to {len(lengths)} dimensions")
    mode = attributes["resize_mode"]
    fixed = rank - INNERMOST[mode]
    for axis, (before, after) in enumerate(zip(data.shape, lengths, strict=True)):
        if after < -1:
            raise RuleError(f"dimension {axis} cannot be resized to {after} elements")
        if before == 0 and after > 0:
            raise RuleError(f"dimension {axis} is empty, so it cannot be resized to {after} elements")
        if axis < fixed and -1 not in (before, after) and before != after:
            raise RuleError(
                f"mode {mode.name} resizes the last {INNERMOST[mode]} dimensions only; dimension {axis} of a tensor "
                f"of shape {data.shape} cannot become {after}"
            )
    # A dimension that is not resized is as long as it was.
    known = [
        before if after == -1 and axis < fixed else after
        for axis, (before, after) in enumerate(zip(data.shape, lengths, strict=True))
    ]
    return [Known(data.dtype, tuple(known))]


def _lengths(
    attributes: Mapping[str, Any], shape: tuple[int, ...], target: Known | None
) -> tuple[int, ...] | list[int]:
    """The lengths asked for; -1 where they are not known."""
    if target is not None:
        require_indices(target, "the lengths (input 1)")
        count = length_of_vector(target, "the lengths (input 1)")
        if target.value is None:
            return (-1,) * count
        lengths = [-1 if one is None else one for one in target.elements()]
        if any(one is not None and one < 0 for one in target.elements()):
            raise RuleError(f"a tensor cannot be resized to {tuple(target.elements())}: a length is negative")
        return lengths
    if attributes["shape"] is not None:
        asked: tuple[int, ...] = attributes["shape"]
        if any(length < 0 for length in asked):
            raise RuleError(
                f"shape {asked} has a negative length; set input 1 for lengths known in a run only"
            )
        return asked
    scales = attributes["scales"]
    if scales is None:
        raise RuleError("there are no lengths to resize to; set shape, scales or input 1")
    if len(scales) != len(shape):
        raise RuleError(f"a tensor of shape {shape} takes {len(shape)} scales, not {len(scales)}")
    return [
        _scaled(length, scale, axis) for axis, (length, scale) in enumerate(zip(shape, scales, strict=True))
    ]


def _scaled(length: int, scale: float, axis: int) -> int:
    """The length times the scale, in float32 as in a run, rounded down."""
    if not math.isfinite(scale) or scale <= 0:
        raise RuleError(f"scale {scale} of dimension {axis} must be a positive number")
    if length < 0 or scale == 1:
        return length
    with np.errstate(over="ignore"):
        product = float(np.float32(length) * np.float32(scale))
    if product >= 2**63:
        raise RuleError(f"dimension {axis} would be {product} long")
    return math.floor(product)
