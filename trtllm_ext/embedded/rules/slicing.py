"""Rules of slice and gather."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from trtllm_ext.embedded.enums import GatherMode, SampleMode
from trtllm_ext.embedded.rules.known import HostValue, Known, OperandError, RuleError, can_hold, known_with
from trtllm_ext.embedded.rules.movement import MAX_RANK, length_of_vector
from trtllm_ext.embedded.rules.typing import require_indices


class _Cut(NamedTuple):
    """How one dimension is sliced; None where a number is not known."""

    start: int | None
    size: int | None
    stride: int | None


def slice_(
    attributes: Mapping[str, Any], inputs: Sequence[Known | None], strongly_typed: bool
) -> list[Known]:
    """Elements `start + i * stride`, i < size, in each dimension; `mode` says what lies out of bounds.

    Inputs 1 to 3 replace start, size and stride; input 4 is the fill value; input 5 replaces `axes`.
    """
    data, *optional = inputs
    if data is None:
        raise OperandError("input 0 is missing")
    optional += [None] * (5 - len(optional))
    mode: SampleMode = attributes["mode"]
    fill = optional[3]
    _check_fill(data, fill, mode)
    cuts = _cuts(data, attributes, optional)
    if cuts is None:
        return [Known(data.dtype, (-1,) * len(data.shape))]
    for axis, (cut, length) in enumerate(zip(cuts, data.shape, strict=True)):
        _check_bounds(cut, length, axis, mode)
    out = tuple(-1 if cut.size is None else cut.size for cut in cuts)
    if data.value is None or not can_hold(data.dtype, out):
        return [Known(data.dtype, out)]
    picked = _pick(data.value, cuts, mode, fill)
    return [Known(data.dtype, out) if picked is None else known_with(data.dtype, out, picked.flat)]


def _check_fill(data: Known, fill: Known | None, mode: SampleMode) -> None:
    if fill is None:
        return
    if mode != SampleMode.FILL:
        raise RuleError(f"input 4, the fill value, is only allowed in mode FILL, and the mode is {mode.name}")
    if fill.dtype != data.dtype:
        raise OperandError(f"the fill value is {fill.dtype.name}, but the data is {data.dtype.name}")
    if any(length not in (1, -1) for length in fill.shape):
        raise OperandError(f"the fill value must be a scalar, but its shape is {fill.shape}")


def _cuts(data: Known, attributes: Mapping[str, Any], optional: Sequence[Known | None]) -> list[_Cut] | None:
    """One cut for each dimension; None if it is not known which dimensions are sliced."""
    rank = len(data.shape)
    axes = _vector(optional[4], attributes["axes"], "axes")
    start = _vector(optional[0], attributes["start"], "start")
    size = _vector(optional[1], attributes["shape"], "size")
    stride = _vector(optional[2], attributes["stride"], "stride")
    count = rank if axes is None else len(axes)
    for what, numbers in (("start", start), ("size", size), ("stride", stride)):
        if numbers is None or len(numbers) != count:
            raise RuleError(
                f"{what} has {0 if numbers is None else len(numbers)} elements where {count} are sliced of a tensor "
                f"of shape {data.shape}"
            )
    assert (
        start is not None and size is not None and stride is not None
    )  # for the type checker: the loop raised
    for number in size:
        if number is not None and number < 0:
            raise RuleError(f"size {size} has a negative length")
    if axes is None:
        return [_Cut(*numbers) for numbers in zip(start, size, stride, strict=True)]
    if None in axes:
        return None
    places = [axis + rank if axis is not None and axis < 0 else axis for axis in axes]
    if len(set(places)) != count or any(place is None or not 0 <= place < rank for place in places):
        raise RuleError(f"axes {axes} are not {count} different dimensions of a tensor of rank {rank}")
    cuts = [_Cut(0, None if length < 0 else length, 1) for length in data.shape]
    for place, *numbers in zip(places, start, size, stride, strict=True):
        cuts[place] = _Cut(*numbers)  # type: ignore[index]
    return cuts


def _vector(given: Known | None, attribute: Sequence[int] | None, what: str) -> Sequence[int | None] | None:
    """The numbers of an input if there is one, else of the attribute."""
    if given is None:
        return attribute
    require_indices(given, what)
    length = length_of_vector(given, what)
    return list(given.elements()) if given.value is not None else [None] * length


def _check_bounds(cut: _Cut, length: int, axis: int, mode: SampleMode) -> None:
    """Raises RuleError if a slice certainly reads what is not there."""
    if cut.size in (None, 0) or length < 0:
        return
    if length == 0 and mode in (SampleMode.CLAMP, SampleMode.REFLECT, SampleMode.WRAP):
        raise RuleError(
            f"dimension {axis} is empty, so mode {mode.name} has nothing to repeat {cut.size} times"
        )
    if mode != SampleMode.STRICT_BOUNDS or cut.start is None:
        return
    assert cut.size is not None  # for the type checker
    reads = [cut.start]
    if cut.stride is not None:
        reads.append(cut.start + (cut.size - 1) * cut.stride)
    if any(not 0 <= read < length for read in reads):
        raise RuleError(
            f"slice of dimension {axis} is out of bounds: start {cut.start}, size {cut.size}, stride {cut.stride} of "
            f"length {length}. Choose another mode than STRICT_BOUNDS to read beyond."
        )


def _pick(value: HostValue, cuts: Sequence[_Cut], mode: SampleMode, fill: Known | None) -> HostValue | None:
    """The elements that a slice takes; None if it is not known which."""
    places, outside = [], []
    for cut, length in zip(cuts, value.shape, strict=True):
        if cut.size is None or ((cut.start is None or cut.stride is None) and cut.size > 0):
            return None
        reads = np.arange(cut.size, dtype=np.int64) * (cut.stride or 0) + (cut.start or 0)
        outside.append((reads < 0) | (reads >= length))
        places.append(_resolve(reads, length, mode))
    if mode != SampleMode.FILL:
        return value[np.ix_(*places)] if places else value
    beyond = np.zeros([cut.size or 0 for cut in cuts], dtype=bool)
    for axis, flags in enumerate(outside):
        beyond |= flags.reshape([-1 if axis == other else 1 for other in range(len(cuts))])
    if 0 in value.shape:
        picked = np.full(beyond.shape, None, dtype=object)
    else:
        picked = value[np.ix_(*places)] if places else value.copy()
    picked[beyond] = _fill_element(value, fill)
    return picked


def _fill_element(value: HostValue, fill: Known | None) -> Any:
    if fill is not None:
        return None if fill.value is None else fill.value.reshape(-1)[0]
    sample = next((element for element in value.flat if element is not None), None)
    return None if sample is None else type(sample)(0)


def _resolve(reads: np.ndarray[Any, Any], length: int, mode: SampleMode) -> np.ndarray[Any, Any]:
    """Positions in a dimension of `length` that out-of-bounds reads stand for."""
    if mode == SampleMode.WRAP:
        return reads % max(length, 1)
    if mode == SampleMode.REFLECT:
        # The edge itself is the axis of reflection: 0 1 2 3 2 1 0 1 ...
        period = max(2 * (length - 1), 1)
        folded = reads % period
        return np.minimum(folded, period - folded) if length > 1 else np.zeros_like(reads)
    return np.clip(reads, 0, max(length - 1, 0))


def gather(attributes: Mapping[str, Any], inputs: Sequence[Known], strongly_typed: bool) -> list[Known]:
    """Elements of input 0 at the positions in input 1.

    Shapes, with data (d...), indices (i...), axis a and n elementwise dims:
    DEFAULT: d[:a] + i[n:] + d[a+1:]. ELEMENT: i. ND: i[:-1] + d[n + i[-1]:].
    """
    data, indices = inputs
    require_indices(indices, "the indices (input 1)")
    mode: GatherMode = attributes["mode"]
    if len(data.shape) == 0:
        raise OperandError("there is nothing to gather from a scalar; reshape it to shape (1,)")
    axis, leading = attributes["axis"], attributes["num_elementwise_dims"]
    if mode != GatherMode.ND and not 0 <= axis < len(data.shape):
        raise RuleError(
            f"axis {axis} is out of range; data of rank {len(data.shape)} has axes 0 to {len(data.shape) - 1}"
        )
    shapes = {
        GatherMode.DEFAULT: _shape_default,
        GatherMode.ELEMENT: _shape_element,
        GatherMode.ND: _shape_nd,
    }
    out = shapes[mode](data.shape, indices.shape, axis, leading)
    if len(out) > MAX_RANK:
        raise RuleError(f"the output would have {len(out)} dimensions; a tensor has at most {MAX_RANK}")
    if not can_hold(data.dtype, out) or data.value is None or indices.value is None:
        return [Known(data.dtype, out)]
    picked = [
        _element(data.value, indices.value, place, mode, axis, leading, len(out))
        for place in np.ndindex(*out)
    ]
    return [known_with(data.dtype, out, picked)]


def _shape_default(
    data: tuple[int, ...], indices: tuple[int, ...], axis: int, leading: int
) -> tuple[int, ...]:
    if leading not in (0, 1):
        raise RuleError(f"mode DEFAULT takes 0 or 1 elementwise dimensions, not {leading}")
    if leading == 1:
        if axis < 1 or len(indices) < 1:
            raise RuleError(
                f"with 1 elementwise dimension axis must be 1 or more and indices at least 1-D; axis is {axis} and "
                f"indices have shape {indices}"
            )
        first = _equal(data[0], indices[0], data, indices, 0)
        return (first, *data[1:axis], *indices[1:], *data[axis + 1 :])
    return (*data[:axis], *indices, *data[axis + 1 :])


def _shape_element(
    data: tuple[int, ...], indices: tuple[int, ...], axis: int, leading: int
) -> tuple[int, ...]:
    if leading != 0:
        raise RuleError(f"mode ELEMENT takes 0 elementwise dimensions, not {leading}")
    if len(data) != len(indices):
        raise RuleError(
            f"in mode ELEMENT indices must have the rank of the data, but their shapes are {indices} and {data}"
        )
    for dimension, (have, want) in enumerate(zip(data, indices, strict=True)):
        if dimension != axis and -1 < have < want:
            raise RuleError(
                f"in mode ELEMENT indices of shape {indices} reach beyond data of shape {data} in dimension {dimension}"
            )
    return indices


def _shape_nd(data: tuple[int, ...], indices: tuple[int, ...], axis: int, leading: int) -> tuple[int, ...]:
    if not indices:
        raise RuleError("in mode ND indices must be at least 1-D")
    depth = indices[-1]
    if depth < 0:
        raise RuleError(f"in mode ND the last length of indices must be known, but their shape is {indices}")
    if not 0 <= leading < min(len(data), len(indices)):
        raise RuleError(
            f"{leading} elementwise dimensions do not fit data of shape {data} and indices of shape {indices}"
        )
    if not 1 <= depth <= len(data) - leading:
        raise RuleError(
            f"in mode ND the last length of indices, {depth}, must be 1 to {len(data) - leading} for data of shape "
            f"{data} with {leading} elementwise dimensions"
        )
    shared = [_equal(data[one], indices[one], data, indices, one) for one in range(leading)]
    return (*shared, *indices[leading:-1], *data[leading + depth :])


def _equal(a: int, b: int, data: tuple[int, ...], indices: tuple[int, ...], dimension: int) -> int:
    if -1 not in (a, b) and a != b:
        raise RuleError(
            f"elementwise dimension {dimension} must be equal in data of shape {data} and indices of shape {indices}"
        )
    return max(a, b)


def _element(
    data: HostValue,
    indices: HostValue,
    place: tuple[int, ...],
    mode: GatherMode,
    axis: int,
    leading: int,
    rank: int,
) -> Any:
    """The element of a gather's output at `place`; None if its index is not known or out of range."""
    if mode == GatherMode.ELEMENT:
        source: tuple[Any, ...] = (*place[:axis], indices[place], *place[axis + 1 :])
    elif mode == GatherMode.DEFAULT:
        count = indices.ndim - leading
        at = indices[(*place[:leading], *place[axis : axis + count])]
        source = (*place[:axis], at, *place[axis + count :])
    else:
        row = indices[place[: indices.ndim - 1]]
        source = (*place[:leading], *row, *place[indices.ndim - 1 :])
    # A negative index counts from the end.
    if any(
        one is None or not -length <= one < length for one, length in zip(source, data.shape, strict=True)
    ):
        return None
    return data[source]
