"""Rules of layers that pick elements or put them elsewhere: top-k, non-zero, scatter, one-hot."""

from collections.abc import Mapping, Sequence
from typing import Any

from trtllm_ext.embedded.enums import DataType, ScatterMode
from trtllm_ext.embedded.rules.known import (
    FLOATS,
    INDICES,
    NUMBERS,
    Known,
    OperandError,
    RuleError,
    may_be_equal,
)
from trtllm_ext.embedded.rules.movement import MAX_RANK
from trtllm_ext.embedded.rules.reduction import axes_of_mask
from trtllm_ext.embedded.rules.typing import common_type, require_indices, require_type

# TensorRT's own limits of a top-k.
MAX_K = 3840
_TOPK_DIMENSIONS = 4

_ELEMENTS = NUMBERS | {DataType.BOOL}


def topk(attributes: Mapping[str, Any], inputs: Sequence[Known | None], strongly_typed: bool) -> list[Known]:
    """The k largest or smallest elements along one of the last four dimensions, and where they were.

    Input 1, a scalar, replaces `k`. Both outputs have the shape of the data but for a length of k.
    """
    data, given = inputs[0], inputs[1] if len(inputs) > 1 else None
    if data is None:
        raise OperandError("input 0 is missing")
    require_type(data.dtype, FLOATS | INDICES, "top-k")
    rank = len(data.shape)
    if rank == 0:
        raise OperandError("a top-k needs at least one dimension, and the input is a scalar")
    axes = axes_of_mask(attributes["axes"], rank)
    if len(axes) > 1 or axes[0] < rank - _TOPK_DIMENSIONS:
        raise RuleError(
            f"axes {attributes['axes']:#x} must name one dimension, one of the last {_TOPK_DIMENSIONS} of a tensor of "
            f"shape {data.shape}, but it names {axes}"
        )
    [axis] = axes
    count = _count(given, attributes["k"], data.shape[axis])
    shape = (*data.shape[:axis], count, *data.shape[axis + 1 :])
    return [Known(data.dtype, shape), Known(_indices_type(attributes), shape)]


def _count(given: Known | None, attribute: int, length: int) -> int:
    """k, or -1 where it is not known."""
    count: int | None = attribute
    if given is not None:
        require_indices(given, "k (input 1)")
        if given.shape != ():
            raise OperandError(f"k (input 1) must be a scalar, but its shape is {given.shape}")
        count = None if given.value is None else int(given.value.item())
    if count is None:
        return -1
    if not 1 <= count <= MAX_K:
        raise RuleError(f"k is {count}; it must be 1 to {MAX_K}")
    if -1 < length < count:
        raise RuleError(f"k is {count}, but the dimension has only {length} elements")
    return count


def _indices_type(attributes: Mapping[str, Any]) -> DataType:
    dtype: DataType = attributes["indices_type"]
    if dtype not in INDICES:
        raise RuleError(f"indices_type must be INT32 or INT64, not {dtype.name}")
    return dtype


def non_zero(attributes: Mapping[str, Any], inputs: Sequence[Known], strongly_typed: bool) -> list[Known]:
    """The positions of all elements other than zero, one a column; how many there are only a run can tell."""
    [data] = inputs
    require_type(data.dtype, _ELEMENTS, "non-zero")
    return [Known(_indices_type(attributes), (len(data.shape), -1))]


def scatter(attributes: Mapping[str, Any], inputs: Sequence[Known], strongly_typed: bool) -> list[Known]:
    """The data, with the updates in place of the elements (or in mode ND the slices) that the indices name.

    Shapes, with data (d...) and indices (i...): in mode ELEMENT updates are (i...), in mode ND
    i[:-1] + d[i[-1]:].
    """
    data, indices, updates = inputs
    require_indices(indices, "the indices (input 1)")
    dtype = common_type([data, updates], strongly_typed, "scatter, for data and updates,")
    require_type(dtype, NUMBERS, "scatter")
    if not data.shape:
        raise OperandError("there is nothing to scatter into a scalar; reshape it to shape (1,)")
    if attributes["mode"] == ScatterMode.ELEMENT:
        _check_element(attributes["axis"], data.shape, indices.shape, updates.shape)
    else:
        _check_nd(data.shape, indices.shape, updates.shape)
    return [Known(dtype, data.shape)]


def _check_element(
    axis: int, data: tuple[int, ...], indices: tuple[int, ...], updates: tuple[int, ...]
) -> None:
    if len(indices) != len(data) or len(updates) != len(data):
        raise RuleError(
            "in mode ELEMENT data, indices and updates must have one rank, but their shapes are "
            f"{data}, {indices} and {updates}"
        )
    if not 0 <= axis < len(data):
        raise RuleError(
            f"axis {axis} is out of range; data of rank {len(data)} has axes 0 to {len(data) - 1}"
        )
    if not may_be_equal(indices, updates):
        raise RuleError(
            f"in mode ELEMENT indices and updates must have one shape, but theirs are {indices} and {updates}"
        )
    for dimension, (have, want) in enumerate(zip(data, indices, strict=True)):
        if dimension != axis and -1 < have < want:
            raise RuleError(
                f"in mode ELEMENT indices of shape {indices} reach beyond data of shape {data} in dimension {dimension}"
            )


def _check_nd(data: tuple[int, ...], indices: tuple[int, ...], updates: tuple[int, ...]) -> None:
    if not indices:
        raise RuleError("in mode ND indices must be at least 1-D")
    depth = indices[-1]
    if depth < 0:
        raise RuleError(f"in mode ND the last length of indices must be known, but their shape is {indices}")
    if not 1 <= depth <= len(data):
        raise RuleError(
            f"in mode ND the last length of indices, {depth}, must be 1 to {len(data)} for data of shape {data}"
        )
    expected = (*indices[:-1], *data[depth:])
    if not may_be_equal(updates, expected):
        raise RuleError(
            f"updates must have the shape {expected} for data of shape {data} and indices of shape {indices} in mode "
            f"ND, but theirs is {updates}"
        )


def one_hot(attributes: Mapping[str, Any], inputs: Sequence[Known], strongly_typed: bool) -> list[Known]:
    """`values[1]` where an index names the position along a new dimension of length `depth`, else `values[0]`.

    Inputs: the indices, the two values, the depth, a scalar known when the network is built. `axis` says where the
    new dimension goes; negative ones count from behind.
    """
    indices, values, depth = inputs
    require_indices(indices, "the indices (input 0)")
    require_type(values.dtype, _ELEMENTS, "one-hot")
    require_indices(depth, "the depth (input 2)")
    if len(values.shape) != 1 or values.shape[0] not in (-1, 2):
        raise OperandError(f"the values (input 1) must be two, off and on, but their shape is {values.shape}")
    if depth.shape != ():
        raise OperandError(f"the depth (input 2) must be a scalar, but its shape is {depth.shape}")
    rank = len(indices.shape)
    if rank == MAX_RANK:
        raise OperandError(f"indices of shape {indices.shape} have no room for one more dimension")
    if depth.value is None:
        raise RuleError("the depth (input 2) must be known when the network is built; give it as a constant")
    length = int(depth.value.item())
    if length < 1:
        raise RuleError(f"the depth (input 2) is {length}; it must be positive")
    axis = attributes["axis"]
    if not -rank - 1 <= axis <= rank:
        raise RuleError(
            f"axis {axis} is out of range; with indices of rank {rank} it may be {-rank - 1} to {rank}"
        )
    place = axis + rank + 1 if axis < 0 else axis
    return [Known(values.dtype, (*indices.shape[:place], length, *indices.shape[place:]))]
