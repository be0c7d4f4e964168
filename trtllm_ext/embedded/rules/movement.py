"""Rules of layers that only move data: shape, shuffle, concatenation."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trtllm_ext.embedded.enums import DataType
from trtllm_ext.embedded.rules.known import (
    HostValue,
    Known,
    OperandError,
    RuleError,
    can_hold,
    known_with,
)
from trtllm_ext.embedded.rules.typing import common_type, require_indices

MAX_RANK = 8


def shape(attributes: Mapping[str, Any], inputs: Sequence[Known], strongly_typed: bool) -> list[Known]:
    """The lengths of the input's dimensions, as INT64."""
    lengths = inputs[0].shape
    return [
        known_with(DataType.INT64, (len(lengths),), [None if length < 0 else length for length in lengths]),
    ]


def concatenation(
    attributes: Mapping[str, Any], inputs: Sequence[Known], strongly_typed: bool
) -> list[Known]:
    """The inputs one after another along `axis`; default axis: the third from last, or 0."""
    dtype = common_type(inputs, strongly_typed, "concatenation")
    shapes = [known.shape for known in inputs]
    rank = len(shapes[0])
    listed = ", ".join(map(str, shapes))
    if any(len(one) != rank for one in shapes):
        raise OperandError(
            f"all inputs must have the same number of dimensions, but their shapes are {listed}"
        )
    axis = concatenation_axis(attributes["axis"], rank)
    result = []
    for dimension, lengths in enumerate(zip(*shapes, strict=True)):
        if dimension == axis:
            result.append(-1 if -1 in lengths else sum(lengths))
            continue
        known = {length for length in lengths if length != -1}
        if len(known) > 1:
            raise RuleError(
                f"inputs of a concatenation along axis {axis} must agree in all other dimensions, but their shapes "
                f"are {listed}: dimension {dimension} differs"
            )
        result.append(known.pop() if known else -1)
    out = tuple(result)
    if not can_hold(dtype, out) or any(known.dtype != dtype or not known.is_exact for known in inputs):
        return [Known(dtype, out)]
    value = np.concatenate([known.elements() for known in inputs], axis=axis)
    return [known_with(dtype, out, value.flat)]


def concatenation_axis(axis: int | None, rank: int) -> int:
    """The axis in use, `axis` being None until it is set. Raises RuleError if the rank has no such axis."""
    if rank == 0:
        raise OperandError("scalars cannot be concatenated; reshape them to shape (1,)")
    if axis is None:
        return max(rank - 3, 0)
    if not 0 <= axis < rank:
        raise RuleError(f"axis {axis} is out of range; inputs of rank {rank} have axes 0 to {rank - 1}")
    return axis


def shuffle(
    attributes: Mapping[str, Any], inputs: Sequence[Known | None], strongly_typed: bool
) -> list[Known]:
    """A transpose, a reshape, and a second transpose.

    The reshape is to input 1 where there is one, else to `reshape_dims`, else there is none. In it 0 copies a
    length if `zero_is_placeholder`, and one -1 takes what is left.
    """
    data = inputs[0]
    if data is None:
        raise OperandError("input 0 is missing")
    first = permutation(attributes["first_transpose"], len(data.shape), "first_transpose")
    lengths = tuple(data.shape[axis] for axis in first)
    target = _reshape_target(attributes, inputs[1] if len(inputs) > 1 else None)
    reshaped = lengths if target is None else _reshape(lengths, target, attributes["zero_is_placeholder"])
    second = permutation(attributes["second_transpose"], len(reshaped), "second_transpose")
    out = tuple(reshaped[axis] for axis in second)
    if data.value is None or not can_hold(data.dtype, out):
        return [Known(data.dtype, out)]
    value: HostValue = data.value.transpose(first).reshape(reshaped).transpose(second)
    return [known_with(data.dtype, out, value.flat)]


def permutation(order: Sequence[int] | None, rank: int, what: str) -> tuple[int, ...]:
    """The leading `rank` entries of a permutation; None is the identity. Raises RuleError if they are not one."""
    if order is None:
        return tuple(range(rank))
    used = tuple(order[:rank])
    if sorted(used) != list(range(rank)):
        raise RuleError(f"{what} {used} is not a permutation of the {rank} dimensions 0 to {rank - 1}")
    return used


def _reshape_target(attributes: Mapping[str, Any], dims: Known | None) -> tuple[int | None, ...] | None:
    """The dimensions to reshape to, None for those not known; None if there is no reshape."""
    if dims is None:
        target: tuple[int, ...] | None = attributes["reshape_dims"]
        return target
    require_indices(dims, "the reshape dimensions (input 1)")
    rank = length_of_vector(dims, "the reshape dimensions (input 1)")
    return tuple(dims.elements()) if dims.value is not None else (None,) * rank


def length_of_vector(known: Known, what: str) -> int:
    """The length of a 1-D shape tensor. Raises RuleError if it is not 1-D, not of a known length, or too long."""
    if len(known.shape) != 1:
        raise OperandError(f"{what} must be 1-D, but its shape is {known.shape}")
    [length] = known.shape
    if length < 0:
        raise RuleError(f"{what} must have a length known when the network is built, but its shape is (-1,)")
    if length > MAX_RANK:
        raise RuleError(f"{what} has {length} elements; a tensor has at most {MAX_RANK} dimensions")
    return length


def _reshape(lengths: tuple[int, ...], target: tuple[int | None, ...], zero_copies: bool) -> tuple[int, ...]:
    """The shape after a reshape of a tensor of shape `lengths` to `target`.

    Lengths that are copied leave both sides before anything is counted, so (0, 6) reshaped to (0, -1) is (0, 6)
    whether the first length is known or not.
    """
    if sum(length == -1 for length in target) > 1:
        raise RuleError(f"reshape dimensions {target} have more than one -1; only one can be inferred")
    result: list[int] = []
    rest_in = list(lengths)
    rest_out: list[int] = []
    for axis, length in enumerate(target):
        if length == 0 and zero_copies:
            if axis >= len(lengths):
                raise RuleError(
                    f"reshape dimensions {target} copy dimension {axis} of a tensor of shape {lengths}, which has none"
                )
            result.append(lengths[axis])
            rest_in[axis] = 1
        elif length is None or length == -1:
            result.append(-1)
        elif length < 0:
            raise RuleError(f"reshape dimensions {target} have a negative length other than -1")
        else:
            result.append(length)
            rest_out.append(length)
    if -1 in rest_in and 0 not in rest_in:
        return tuple(result)
    # A length of -1 follows from the number of elements, and so does one whose value is not known yet.
    open_axes = [axis for axis, length in enumerate(target) if length is None or length == -1]
    volume, others = math.prod(rest_in), math.prod(rest_out)
    if not open_axes and volume != others:
        raise RuleError(
            f"a tensor of shape {lengths} cannot be reshaped to {tuple(result)}: the number of elements differs"
        )
    if len(open_axes) == 1 and target[open_axes[0]] == -1:
        result[open_axes[0]] = _quotient(volume, others, lengths, target)
    elif len(open_axes) == 1 and others != 0 and volume % others == 0:
        result[open_axes[0]] = volume // others
    return tuple(result)


def _quotient(volume: int, others: int, lengths: tuple[int, ...], target: tuple[int | None, ...]) -> int:
    """The length that -1 stands for."""
    if volume == others == 0:
        # Nothing reshaped to nothing: any length would do.
        return 0
    if others == 0 or volume % others:
        raise RuleError(
            f"a tensor of shape {lengths} cannot be reshaped to {target}: {volume} elements are not a multiple of "
            f"{others}"
        )
    return volume // others
