"""Layers that pick elements by coordinate: slice and gather."""

from __future__ import annotations

from typing import Any

import numpy as np

from trtllm_ext.oracle.call import Call, ints, ints_if_set
from trtllm_ext.oracle.values import Array, member_name


def slice(call: Call) -> Array:
    """output[y] = input[y * stride + start], with the mode's rule for coordinates outside the input.

    start, size and stride come from inputs 1 to 3 where set and from the attributes otherwise, input 4 is the
    fill value, and input 5 or the attribute `axes` names the dimensions that they are about (default: all).
    """
    layer = call.attributes("ISliceLayer")
    x = call.input(0)
    axes = _slice_axes(call, layer, x.ndim)
    starts = _slice_parameter(call, 1, layer, "start", axes, [0] * x.ndim)
    sizes = _slice_parameter(call, 2, layer, "shape", axes, list(x.shape))
    strides = _slice_parameter(call, 3, layer, "stride", axes, [1] * x.ndim)
    if any(size < 0 for size in sizes):
        call.refuse(f"sizes {tuple(sizes)} must not be negative")
    mode = member_name(layer.mode)
    result = x
    outside_anywhere = np.zeros((1,) * x.ndim, np.bool_)
    for axis in range(x.ndim):
        coordinates = np.arange(sizes[axis], dtype=np.int64) * strides[axis] + starts[axis]
        index, outside = _resolved_coordinates(call, mode, coordinates, x.shape[axis], axis)
        result = _taken(result, index, axis)
        along = [1] * x.ndim
        along[axis] = len(coordinates)
        outside_anywhere = outside_anywhere | outside.reshape(along)
    if mode != "FILL":
        return result
    return np.where(outside_anywhere, _fill_value(call, x.dtype), result)


def _slice_axes(call: Call, layer: Any, rank: int) -> tuple[int, ...]:
    dynamic = call.optional(5)
    # TensorRT has slices with axes since 10.9.
    given = ints_if_set(getattr(layer, "axes", ())) or ()
    named = given if dynamic is None else tuple(int(axis) for axis in dynamic)
    axes = tuple(axis + rank if axis < 0 else axis for axis in named) or tuple(range(rank))
    if len(set(axes)) != len(axes) or any(not 0 <= axis < rank for axis in axes):
        call.refuse(f"axes {named} must be distinct dimensions of an input of rank {rank}")
    return axes


def _slice_parameter(
    call: Call, index: int, layer: Any, attribute: str, axes: tuple[int, ...], default: list[int]
) -> list[int]:
    dynamic = call.optional(index)
    given = tuple(int(v) for v in dynamic) if dynamic is not None else ints(getattr(layer, attribute))
    if len(given) != len(axes):
        call.refuse(f"{attribute} {given} needs one entry for each of the dimensions {axes}")
    full = list(default)
    for axis, value in zip(axes, given, strict=True):
        full[axis] = value
    return full


def _resolved_coordinates(call: Call, mode: str, x: Array, length: int, axis: int) -> tuple[Array, Array]:
    """Coordinates within [0, length) by SampleMode's rule, and which ones lay outside."""
    outside = (x < 0) | (x >= length)
    if mode in ("STRICT_BOUNDS", "DEFAULT"):
        if bool(outside.any()):
            call.refuse(
                f"coordinates {int(x.min())}..{int(x.max())} leave dimension {axis} of length {length}"
            )
        return x, outside
    if mode == "FILL":
        return np.where(outside, 0, x), outside
    if length == 0:
        if x.size:
            call.refuse(f"{mode} has nothing to repeat in dimension {axis} of length 0")
        return x, outside
    if mode == "WRAP":
        return np.mod(x, length), outside
    if mode == "CLAMP":
        return np.clip(x, 0, length - 1), outside
    if mode == "REFLECT":
        if length == 1:
            return np.zeros_like(x), outside
        folded = np.mod(np.abs(x), 2 * length - 2)
        return np.where(folded >= length, 2 * length - 2 - folded, folded), outside
    return call.refuse(f"mode {mode} is not known here")


def _taken(x: Array, index: Array, axis: int) -> Array:
    """np.take that lets FILL ask for elements of an empty dimension (their values are never used)."""
    if x.shape[axis] == 0 and index.size:
        return np.zeros((*x.shape[:axis], index.size, *x.shape[axis + 1 :]), x.dtype)
    return np.take(x, index, axis=axis)


def _fill_value(call: Call, dtype: np.dtype[Any]) -> Array:
    fill = call.optional(4)
    if fill is None:
        return np.zeros((), dtype)
    if fill.size != 1 or fill.dtype != dtype:
        call.refuse(f"the fill value must be one {dtype}, not {fill.dtype} of shape {fill.shape}")
    return fill.reshape(())


def gather(call: Call) -> Array:
    """DEFAULT, ELEMENT or ND. Negative indices count from the end; what lies outside is refused."""
    layer = call.attributes("IGatherLayer")
    data, indices = call.input(0), call.input(1)
    if indices.dtype.kind not in "iu":
        call.refuse(f"indices must be int32 or int64, not {indices.dtype}")
    mode = member_name(layer.mode)
    axis, leading = int(layer.axis), int(layer.num_elementwise_dims)
    if mode == "ND":
        return _gather_nd(call, data, indices.astype(np.int64), leading)
    axis = axis + data.ndim if axis < 0 else axis
    if not 0 <= axis < data.ndim:
        call.refuse(f"axis {axis} is not a dimension of data of shape {data.shape}")
    if mode == "ELEMENT":
        return _gather_elements(call, data, indices.astype(np.int64), axis)
    if mode != "DEFAULT" or leading not in (0, 1):
        call.refuse(f"mode {mode} with num_elementwise_dims={leading} is not known here")
    if leading == 0:
        return np.take(data, _bounded(call, indices.astype(np.int64), data.shape[axis]), axis=axis)
    return _gather_leading(call, data, indices.astype(np.int64), axis)


def _bounded(call: Call, indices: Array, length: int) -> Array:
    """Indices made non-negative.

    For what lies beyond the ends TensorRT stores 0, and the embedded engine fails the run: nobody can mean either.
    """
    positive = np.where(indices < 0, indices + length, indices)
    if bool(((positive < 0) | (positive >= length)).any()):
        call.refuse(
            f"indices {int(indices.min())}..{int(indices.max())} leave a dimension of length {length}; they must be "
            f"within {-length}..{length - 1}"
        )
    return positive


def _gather_leading(call: Call, data: Array, indices: Array, axis: int) -> Array:
    """DEFAULT with one elementwise dimension: row n of the indices picks from row n of the data."""
    if axis < 1 or indices.ndim < 1:
        call.refuse(
            f"num_elementwise_dims=1 needs axis >= 1 and indices of rank >= 1, not {axis} and {indices.shape}"
        )
    lengths = {data.shape[0], indices.shape[0]} - {1}
    if len(lengths) > 1:
        call.refuse(f"data {data.shape} and indices {indices.shape} do not broadcast along dimension 0")
    rows = lengths.pop() if lengths else 1
    data = np.broadcast_to(data, (rows, *data.shape[1:]))
    indices = np.broadcast_to(indices, (rows, *indices.shape[1:]))
    picked = _bounded(call, indices, data.shape[axis])
    shape = data.shape[:axis] + indices.shape[1:] + data.shape[axis + 1 :]
    result = np.empty(shape, data.dtype)
    for row in range(rows):
        result[row] = np.take(data[row], picked[row], axis=axis - 1)
    return result


def _gather_elements(call: Call, data: Array, indices: Array, axis: int) -> Array:
    """output[J] = data[J with J[axis] replaced by indices[J]]."""
    others = [(i, d) for k, (i, d) in enumerate(zip(indices.shape, data.shape, strict=False)) if k != axis]
    if indices.ndim != data.ndim or any(i > d for i, d in others):
        call.refuse(
            f"indices {indices.shape} must have the rank of data {data.shape} and fit in it beside axis {axis}"
        )
    if indices.size == 0:
        return np.zeros(indices.shape, data.dtype)
    places: list[Array] = list(np.indices(indices.shape, sparse=True))
    places[axis] = _bounded(call, indices, data.shape[axis])
    return data[tuple(places)]


def _gather_nd(call: Call, data: Array, indices: Array, leading: int) -> Array:
    """output[i...] = data[indices[i...]]; the first `leading` dimensions of both run together."""
    depth = indices.shape[-1] if indices.ndim else 0
    if indices.ndim < 1 + leading or depth < 1 or leading + depth > data.ndim:
        call.refuse(
            f"indices {indices.shape} with num_elementwise_dims={leading} do not index data of shape {data.shape}"
        )
    if indices.shape[:leading] != data.shape[:leading]:
        call.refuse(
            f"the first {leading} dimensions of data {data.shape} and indices {indices.shape} must be equal"
        )
    shape = indices.shape[:-1] + data.shape[leading + depth :]
    if indices.size == 0:
        return np.zeros(shape, data.dtype)
    places: list[Array] = list(np.indices(indices.shape[:-1], sparse=True))[:leading]
    for level in range(depth):
        places.append(_bounded(call, indices[..., level], data.shape[leading + level]))
    return data[tuple(places)]
