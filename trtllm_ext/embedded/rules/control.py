"""Rules of the boundaries of loops and conditionals.

A recurrence has the shape of its initial value: its other input, the back edge, is not inferred from but must fit.
Nothing is known of values that may differ from one iteration to the next.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from trtllm_ext.embedded.enums import DataType, LoopOutput, TripLimit
from trtllm_ext.embedded.rules.known import (
    FLOATS,
    INDICES,
    Known,
    OperandError,
    RuleError,
    can_hold,
    describe,
    known_with,
    may_be_equal,
)
from trtllm_ext.embedded.rules.movement import MAX_RANK
from trtllm_ext.embedded.rules.typing import require_indices, require_type

_BOOL = frozenset({DataType.BOOL})


def recurrence(attributes: Mapping[str, Any], inputs: Sequence[Known], strongly_typed: bool) -> list[Known]:
    """The initial value's type and shape; if the next value is given too, it must fit them."""
    initial, following = inputs[0], inputs[1] if len(inputs) > 1 else None
    if following is not None:
        require_fit(initial, following, strongly_typed)
    return [Known(initial.dtype, initial.shape)]


def require_fit(initial: Known, following: Known, strongly_typed: bool) -> None:
    """Raises RuleError unless what one iteration passes on may be what the next one starts from."""
    same_type = initial.dtype == following.dtype or (
        not strongly_typed and initial.dtype in FLOATS and following.dtype in FLOATS
    )
    if not same_type or not may_be_equal(initial.shape, following.shape):
        raise RuleError(
            f"the value that an iteration passes on is {describe(following)}, but the initial value is "
            f"{describe(initial)}; type and shape must stay the same. Cast or reshape one of the two."
        )


def iterator(attributes: Mapping[str, Any], inputs: Sequence[Known], strongly_typed: bool) -> list[Known]:
    """One slice of the input: its shape without the dimension that is iterated over."""
    (data,) = inputs
    axis, rank = attributes["axis"], len(data.shape)
    if not 0 <= axis < rank:
        raise RuleError(f"there is no dimension {axis} to iterate over in a tensor of shape {data.shape}")
    return [Known(data.dtype, data.shape[:axis] + data.shape[axis + 1 :])]


def trip_limit(attributes: Mapping[str, Any], inputs: Sequence[Known], strongly_typed: bool) -> list[Known]:
    """No output: a count is a 0-D integer, a condition a 0-D boolean."""
    (limit,) = inputs
    kind = attributes["kind"]
    require_type(
        limit.dtype, INDICES if kind == TripLimit.COUNT else _BOOL, f"a trip limit of kind {kind.name}"
    )
    _require_scalar(limit, f"a trip limit of kind {kind.name}")
    return []


def loop_output(attributes: Mapping[str, Any], inputs: Sequence[Known], strongly_typed: bool) -> list[Known]:
    """The last value; or the values of all iterations, input 1 of them, along a new dimension `axis`."""
    value, length = inputs[0], inputs[1] if len(inputs) > 1 else None
    if attributes["kind"] == LoopOutput.LAST_VALUE:
        if length is not None:
            raise RuleError(
                "a loop output of kind LAST_VALUE has no input 1; a length is for CONCATENATE and REVERSE"
            )
        return [Known(value.dtype, value.shape)]
    axis, rank = attributes["axis"], len(value.shape)
    if not 0 <= axis <= rank:
        raise RuleError(f"axis {axis} is no place for a new dimension in a tensor of shape {value.shape}")
    if rank == MAX_RANK:
        raise RuleError(f"values of shape {value.shape} have no room for one more dimension than {MAX_RANK}")
    return [Known(value.dtype, (*value.shape[:axis], _length(length), *value.shape[axis:]))]


def _length(known: Known | None) -> int:
    """The length along the new dimension; -1 where it is not known."""
    if known is None:
        return -1
    require_indices(known, "the length of a loop output")
    _require_scalar(known, "the length of a loop output")
    if known.value is None or not known.has_value:
        return -1
    length = int(known.value.item())
    if length < 0:
        raise RuleError(f"the length of a loop output is {length}; it must not be negative")
    return length


def condition(attributes: Mapping[str, Any], inputs: Sequence[Known], strongly_typed: bool) -> list[Known]:
    """No output: the condition is a 0-D boolean."""
    (known,) = inputs
    require_type(known.dtype, _BOOL, "the condition of a conditional")
    _require_scalar(known, "the condition of a conditional")
    return []


def conditional_input(
    attributes: Mapping[str, Any], inputs: Sequence[Known], strongly_typed: bool
) -> list[Known]:
    """The input itself."""
    (known,) = inputs
    return [known]


def conditional_output(
    attributes: Mapping[str, Any], inputs: Sequence[Known], strongly_typed: bool
) -> list[Known]:
    """What holds in both branches, which must have the same type and shape."""
    then, other = inputs
    mixed = not strongly_typed and then.dtype in FLOATS and other.dtype in FLOATS
    if then.dtype != other.dtype and not mixed:
        raise OperandError(
            f"the branches of a conditional give {then.dtype.name} and {other.dtype.name}; they must give the same "
            "type. Insert a cast."
        )
    if not may_be_equal(then.shape, other.shape):
        raise OperandError(
            f"the branches of a conditional give shapes {then.shape} and {other.shape}; they must give the same shape"
        )
    dtype = then.dtype if then.dtype == other.dtype else DataType.FLOAT
    shape = tuple(max(a, b) for a, b in zip(then.shape, other.shape, strict=True))
    if then.value is None or other.value is None or not can_hold(dtype, shape):
        return [Known(dtype, shape)]
    both = zip(then.value.flat, other.value.flat, strict=True)
    return [known_with(dtype, shape, [a if a == b else None for a, b in both])]


def _require_scalar(known: Known, what: str) -> None:
    if known.shape:
        raise OperandError(f"{what} must be a 0-D tensor, but it has shape {known.shape}. Reshape it to ().")
