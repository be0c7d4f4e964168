"""Layers that pick or place elements by value or by index, and those that go along a dimension in order."""

from __future__ import annotations

import numpy as np

from trtllm_ext.oracle.call import Call, axes_of
from trtllm_ext.oracle.values import Array, held_as, is_floating, member_name


def topk(call: Call) -> tuple[Array, Array]:
    """The k largest (smallest) elements along a dimension in descending (ascending) order, and their indices.

    Of equal elements the one with the lower index comes first. Where NaN goes is not documented, so it is refused.
    """
    layer = call.attributes("ITopKLayer")
    x = call.input(0)
    try:
        [axis] = axes_of(int(layer.axes), x.ndim)
    except ValueError:
        call.refuse(f"axes {int(layer.axes):#b} must name one dimension of an input of rank {x.ndim}")
    given = call.optional(1)
    count = int(layer.k) if given is None else int(given)
    if not 1 <= count <= min(3840, x.shape[axis]):
        call.refuse(f"k is {count} for {x.shape[axis]} elements; it may be at most that, and at most 3840")
    if is_floating(x) and bool(np.isnan(x).any()):
        call.refuse("the place of NaN among the largest and the smallest is not defined")
    order = _descending(x, axis) if member_name(layer.op) == "MAX" else np.argsort(x, axis, kind="stable")
    chosen = np.take(order, range(count), axis)
    return np.take_along_axis(x, chosen, axis), chosen.astype(_type_of_output(call, 1))


def _descending(x: Array, axis: int) -> Array:
    """The order of descending elements, equal ones by rising index."""
    backwards = np.argsort(np.flip(x, axis), axis, kind="stable")
    return np.asarray(x.shape[axis] - 1 - np.flip(backwards, axis))


def _type_of_output(call: Call, index: int) -> np.dtype[np.generic]:
    return held_as(member_name(call.layer.get_output(index).dtype))


def non_zero(call: Call) -> Array:
    """The positions of all elements but zeros in row-major order, one a column: [rank, count]."""
    x = call.input(0)
    places = [place for place in np.ndindex(*x.shape) if x[place] != 0]
    return np.array(places, _type_of_output(call, 0)).reshape(len(places), x.ndim).T


def scatter(call: Call) -> Array:
    """The data, with each update at the place that its index names; two updates of one place are refused."""
    layer = call.attributes("IScatterLayer")
    data, indices, updates = call.present()
    call.same_kind(data, updates)
    if member_name(layer.mode) == "ELEMENT":
        depth, places = data.ndim, _element_places(call, int(layer.axis), data, indices)
        fits = updates.shape == indices.shape
    else:
        depth = indices.shape[-1]
        places = [tuple(int(i) for i in indices[at]) for at in np.ndindex(*indices.shape[:-1])]
        fits = updates.shape == indices.shape[:-1] + data.shape[depth:]
    if not fits:
        call.refuse(
            f"updates of shape {updates.shape} do not fit data {data.shape} and indices {indices.shape}"
        )
    if any(not 0 <= i < n for place in places for i, n in zip(place, data.shape, strict=False)):
        call.refuse(f"an index lies outside of data of shape {data.shape}")
    if len(set(places)) < len(places):
        call.refuse("two updates go to one place, which one wins is not defined")
    result = data.copy()
    rows = updates.reshape(len(places), *data.shape[depth:])
    for place, update in zip(places, rows, strict=True):
        result[place] = update
    return result


def _element_places(call: Call, axis: int, data: Array, indices: Array) -> list[tuple[int, ...]]:
    if data.ndim != indices.ndim or not 0 <= axis < data.ndim:
        call.refuse(f"indices of shape {indices.shape} and axis {axis} do not fit data of shape {data.shape}")
    return [(*at[:axis], int(indices[at]), *at[axis + 1 :]) for at in np.ndindex(*indices.shape)]


def one_hot(call: Call) -> Array:
    """A new dimension of length depth: values[1] at the index, values[0] elsewhere."""
    axis = int(call.attributes("IOneHotLayer").axis)
    indices, values, depth = call.present()
    count = int(depth)
    if count < 1 or values.shape != (2,) or not -indices.ndim - 1 <= axis <= indices.ndim:
        call.refuse(f"depth {count}, values of shape {values.shape} and axis {axis} do not make a one-hot")
    if bool(((indices < 0) | (indices >= count)).any()):
        call.refuse(f"an index is outside of 0 to {count - 1}")
    is_on = indices[..., np.newaxis] == np.arange(count)
    return np.moveaxis(np.where(is_on, values[1], values[0]), -1, axis)


def cumulative(call: Call) -> Array:
    """Sums of the elements up to each, or from each on (`reverse`); without itself where `exclusive`."""
    layer = call.attributes("ICumulativeLayer")
    x, axis = call.input(0), int(call.input(1))
    if not -x.ndim <= axis < x.ndim:
        call.refuse(f"axis {axis} is no dimension of an input of rank {x.ndim}")
    ordered = np.flip(x, axis) if layer.reverse else x
    sums = np.cumsum(ordered, axis, dtype=x.dtype)
    if layer.exclusive:
        first = np.zeros_like(np.take(sums, range(min(1, x.shape[axis])), axis))
        rest = np.take(sums, range(max(x.shape[axis] - 1, 0)), axis)
        sums = np.concatenate([first, rest], axis)
    return np.flip(sums, axis) if layer.reverse else sums


def reverse_sequence(call: Call) -> Array:
    """For each i along the batch axis, the first lengths[i] elements along the sequence axis turned around."""
    layer = call.attributes("IReverseSequenceLayer")
    x, lengths = call.input(0), call.input(1)
    batch, sequence = int(layer.batch_axis), int(layer.sequence_axis)
    if lengths.shape != (x.shape[batch],):
        call.refuse(
            f"{lengths.shape} sequence lengths do not fit dimension {batch} of an input of shape {x.shape}"
        )
    result = np.moveaxis(x, (batch, sequence), (0, 1)).copy()
    for row, length in zip(result, lengths, strict=True):
        if not 0 <= length <= len(row):
            call.refuse(f"sequence length {length} is outside of 0 to {len(row)}")
        row[:length] = row[:length][::-1].copy()
    return np.moveaxis(result, (0, 1), (batch, sequence))


def squeeze(call: Call) -> Array:
    """Without the dimensions in input 1, each of length 1."""
    x, axes = call.input(0), call.input(1)
    try:
        return np.squeeze(x, tuple(int(axis) for axis in axes))
    except ValueError:
        call.refuse(f"dimensions {axes.tolist()} of an input of shape {x.shape} cannot be squeezed")


def unsqueeze(call: Call) -> Array:
    """With dimensions of length 1, which are those in input 1 of the result."""
    x, axes = call.input(0), call.input(1)
    try:
        return np.expand_dims(x, tuple(int(axis) for axis in axes))
    except ValueError:
        call.refuse(f"dimensions {axes.tolist()} cannot be put into an input of shape {x.shape}")
