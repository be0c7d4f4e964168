"""Rules of layers that take lengths of 1 out of a shape or put them in: squeeze, unsqueeze."""

from collections.abc import Mapping, Sequence
from typing import Any

from trtllm_ext.embedded.rules.known import Known, RuleError, known_with
from trtllm_ext.embedded.rules.movement import MAX_RANK, length_of_vector
from trtllm_ext.embedded.rules.typing import require_indices


def squeeze(attributes: Mapping[str, Any], inputs: Sequence[Known], strongly_typed: bool) -> list[Known]:
    """The input without the dimensions in input 1, whose lengths are 1."""
    data, axes = inputs
    removed = _axes(axes, len(data.shape))
    for axis in sorted(removed):
        if data.shape[axis] not in (1, -1):
            raise RuleError(
                f"dimension {axis} of shape {data.shape} cannot be squeezed: its length is {data.shape[axis]}, not 1"
            )
    shape = tuple(length for axis, length in enumerate(data.shape) if axis not in removed)
    return [_reshaped(data, shape)]


def unsqueeze(attributes: Mapping[str, Any], inputs: Sequence[Known], strongly_typed: bool) -> list[Known]:
    """The input with new dimensions of length 1, which are those in input 1 of the result."""
    data, axes = inputs
    count = length_of_vector(axes, "the axes (input 1)")
    rank = len(data.shape) + count
    if rank > MAX_RANK:
        raise RuleError(f"the output would have {rank} dimensions; a tensor has at most {MAX_RANK}")
    added = _axes(axes, rank)
    rest = iter(data.shape)
    return [_reshaped(data, tuple(1 if axis in added else next(rest) for axis in range(rank)))]


def _axes(axes: Known, rank: int) -> set[int]:
    """The dimensions in a vector of axes, negative ones counted from behind."""
    require_indices(axes, "the axes (input 1)")
    count = length_of_vector(axes, "the axes (input 1)")
    if count == 0:
        return set()
    if axes.value is None or not axes.has_value:
        raise RuleError("the axes (input 1) must be known when the network is built; give them as a constant")
    given = [int(axis) for axis in axes.value]
    places = {axis + rank if axis < 0 else axis for axis in given}
    if len(places) != count or not all(0 <= place < rank for place in places):
        raise RuleError(f"axes {given} are not {count} different dimensions of a tensor of rank {rank}")
    return places


def _reshaped(data: Known, shape: tuple[int, ...]) -> Known:
    if data.value is None:
        return Known(data.dtype, shape)
    # A length that turns out to be other than 1 fails the run before anybody reads these.
    return known_with(data.dtype, shape, data.value.flat)
