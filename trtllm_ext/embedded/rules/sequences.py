"""Rules of layers that go along one dimension in order: cumulative, reverse sequence."""

from collections.abc import Mapping, Sequence
from typing import Any

from trtllm_ext.embedded.enums import DataType
from trtllm_ext.embedded.rules.known import FLOATS, INDICES, NUMBERS, Known, OperandError, RuleError
from trtllm_ext.embedded.rules.typing import require_indices, require_type


def cumulative(attributes: Mapping[str, Any], inputs: Sequence[Known], strongly_typed: bool) -> list[Known]:
    """Sums of all elements up to each along the dimension in input 1, a scalar known when the network is built."""
    data, axis = inputs
    require_type(data.dtype, FLOATS | INDICES, "cumulative")
    require_indices(axis, "the axis (input 1)")
    rank = len(data.shape)
    if rank == 0:
        raise OperandError("a cumulative needs at least one dimension, and the input is a scalar")
    if axis.shape != ():
        raise OperandError(f"the axis (input 1) must be a scalar, but its shape is {axis.shape}")
    if axis.value is None:
        raise RuleError("the axis (input 1) must be known when the network is built; give it as a constant")
    if not -rank <= axis.value[()] < rank:
        raise RuleError(
            f"axis {axis.value[()]} is out of range; a tensor of rank {rank} has axes {-rank} to {rank - 1}"
        )
    return [Known(data.dtype, data.shape)]


def reverse_sequence(
    attributes: Mapping[str, Any], inputs: Sequence[Known], strongly_typed: bool
) -> list[Known]:
    """The first `lengths[i]` elements along `sequence_axis` in reverse, for each i along `batch_axis`."""
    data, lengths = inputs
    require_type(data.dtype, NUMBERS | {DataType.BOOL}, "reverse sequence")
    require_indices(lengths, "the sequence lengths (input 1)")
    rank = len(data.shape)
    if rank < 2:
        raise OperandError(f"sequences in a batch need two dimensions, but the input's shape is {data.shape}")
    if len(lengths.shape) != 1:
        raise OperandError(f"the sequence lengths (input 1) must be 1-D, but their shape is {lengths.shape}")
    batch, sequence = attributes["batch_axis"], attributes["sequence_axis"]
    for what, axis in (("batch_axis", batch), ("sequence_axis", sequence)):
        if not 0 <= axis < rank:
            raise RuleError(
                f"{what} {axis} is out of range; a tensor of rank {rank} has axes 0 to {rank - 1}"
            )
    if batch == sequence:
        raise RuleError(f"batch_axis and sequence_axis must differ, but both are {batch}")
    have, want = lengths.shape[0], data.shape[batch]
    if -1 not in (have, want) and have != want:
        raise RuleError(
            f"there are {have} sequence lengths for {want} sequences, dimension {batch} of shape {data.shape}"
        )
    return [Known(data.dtype, data.shape)]
