"""Layers that only move data: shuffle, concatenation, gather, select.

Data stays in its type where ONNX Runtime has a kernel for it. Where it has none, the type is changed by explicit
casts to one that holds every value exactly: left to itself the runtime would insert casts of its own and then drop
them together with ours, and with them a rounding.
"""

from collections.abc import Sequence
from math import prod

import numpy as np

from trtllm_ext.lowering.constants import INLINE_BYTES
from trtllm_ext.lowering.element_types import BF16, BOOL, FLOAT, HALF, INT64, UINT8
from trtllm_ext.lowering.emitter import Emitter
from trtllm_ext.lowering.layer import Layer
from trtllm_ext.lowering.registry import lowers
from trtllm_ext.lowering.values import Element, Value, broadcast_shape, constant

# Types without a kernel of Where or Pad (Expand has all but bfloat16), and what carries them exactly.
CARRIER = {HALF: FLOAT, BF16: FLOAT, BOOL: UINT8}


def squeeze(emitter: Emitter, value: Value, axis: int) -> Value:
    """`value` without axis `axis`, whose length is 1."""
    shape = value.shape[:axis] + value.shape[axis + 1 :]
    if value.data is not None:
        return value.reshaped(shape)
    return emitter.node("Squeeze", [value, emitter.ints([axis])], value.onnx_type, shape)


def unsqueeze(emitter: Emitter, value: Value, axis: int) -> Value:
    """`value` with a new axis of length 1 before axis `axis`."""
    shape = (*value.shape[:axis], 1, *value.shape[axis:])
    if value.data is not None:
        return value.reshaped(shape)
    return emitter.node("Unsqueeze", [value, emitter.ints([axis])], value.onnx_type, shape)


def reshape_to(emitter: Emitter, value: Value, shape: tuple[int, ...]) -> Value:
    """`value` in a static shape of the same volume."""
    if value.shape == shape:
        return value
    if value.data is not None:
        return value.reshaped(shape)
    return emitter.node("Reshape", [value, emitter.ints(shape)], value.onnx_type, shape, allowzero=1)


def transpose(emitter: Emitter, value: Value, order: Sequence[int]) -> Value:
    """`value` with output axis i taken from input axis order[i]."""
    order = tuple(order)
    if order == tuple(range(value.ndim)):
        return value
    if value.data is not None:
        shape = tuple(value.shape[axis] for axis in order)
        long = [axis for axis in order if value.shape[axis] != 1]
        if long == sorted(long):
            return value.reshaped(shape)
        if value.data.nbytes <= INLINE_BYTES:
            return emitter.keep(np.transpose(value.array(), order))
    return emitter.transpose(value, order)


# Shuffle


@lowers("SHUFFLE")
def shuffle(layer: Layer) -> Value:
    """Transpose, reshape, transpose."""
    value = layer.raw(0)
    value = transpose(layer.emitter, value, tuple(layer.api.first_transpose)[: value.ndim])
    second = tuple(layer.api.second_transpose)[: len(layer.output_shape)]
    shape = [0] * len(second)
    for axis, source in enumerate(second):
        shape[source] = layer.output_shape[axis]
    value = _reshaped(layer, value, tuple(shape))
    return transpose(layer.emitter, value, second)


def _reshaped(layer: Layer, value: Value, shape: tuple[int, ...]) -> Value:
    """The reshape inside a shuffle; `shape` is its result, -1 where the length is known at run time only."""
    placeholder = bool(layer.api.zero_is_placeholder)
    wanted: Sequence[Element]
    if layer.has(1):
        wanted = layer.raw(1).elements or (None,) * len(shape)
    else:
        dims = _dims_or_none(layer.api.reshape_dims)
        if dims is None or (not dims and shape):
            return value
        wanted = dims
    if all(length >= 0 for length in shape) and value.is_static:
        return reshape_to(layer.emitter, value, shape)
    target = [_target(layer, value, axis, shape, wanted, placeholder) for axis in range(len(shape))]
    inserted = _inserted_axes(value, shape, target)
    if inserted:
        return layer.emitter.node("Unsqueeze", [value, layer.emitter.ints(inserted)], value.onnx_type, shape)
    # ONNX's -1 does not stand beside a length of 0, and one that is copied may turn out to be 0.
    is_free = -1 not in target or 0 not in target
    if target.count(-1) <= 1 and 0 not in shape and is_free:
        if tuple(target) == (0,) * value.ndim:
            return value
        dims_value, allow_zero = layer.emitter.ints(target), 0
    elif layer.has(1) and (is_free or not placeholder or target.count(-1) > 1):
        dims_value, allow_zero = layer.emitter.cast(layer.raw(1), INT64), int(not placeholder)
    else:
        dims_value, allow_zero = _lengths(layer, value, shape, target), 1
    return layer.emitter.node("Reshape", [value, dims_value], value.onnx_type, shape, allowzero=allow_zero)


def _dims_or_none(dims: object) -> tuple[int, ...] | None:
    try:
        return tuple(dims)  # type: ignore[arg-type]
    except ValueError:
        return None  # reshape_dims that were never set have no length


def _target(
    layer: Layer,
    value: Value,
    axis: int,
    shape: tuple[int, ...],
    wanted: Sequence[Element],
    placeholder: bool,
) -> int:
    """One number for ONNX's Reshape: the length, 0 to copy it from the input, or -1 to infer it."""
    if shape[axis] >= 0:
        return shape[axis]
    copies = (wanted[axis] == 0 and placeholder) or (
        wanted[axis] is not None and wanted[axis:][:1] == value.lengths[axis:][:1]
    )
    return 0 if copies and axis < value.ndim else -1


def _inserted_axes(value: Value, shape: tuple[int, ...], target: Sequence[int]) -> list[int]:
    """Where a reshape puts lengths of 1 between those of its input, if that is all it does; else nothing."""
    kept = [axis for axis, length in enumerate(shape) if length != 1]
    if 1 in value.shape or len(kept) != value.ndim or target.count(-1) > 1:
        return []
    for source, axis in enumerate(kept):
        is_copy = target[axis] == -1 or (target[axis] == 0 and axis == source)
        if shape[axis] != value.shape[source] or (shape[axis] < 0 and not is_copy):
            return []
    return [axis for axis, length in enumerate(shape) if length == 1]


def _lengths(layer: Layer, value: Value, shape: tuple[int, ...], target: Sequence[int]) -> Value:
    """All lengths of a reshape's result as a tensor; an open one is what is left when copies are taken away."""
    emitter = layer.emitter
    copied = [axis for axis in range(len(shape)) if shape[axis] < 0 and target[axis] == 0]

    def part(axis: int) -> Value:
        if axis in copied:
            return unsqueeze(emitter, emitter.dim_of(value, axis), 0)
        return _rest(emitter, value, shape, copied) if shape[axis] < 0 else emitter.ints([shape[axis]])

    parts = [part(axis) for axis in range(len(shape))]
    return emitter.node("Concat", parts, INT64, (len(parts),), axis=0)


def _rest(emitter: Emitter, value: Value, shape: tuple[int, ...], copied: Sequence[int]) -> Value:
    """The length that a reshape leaves open, 1-D: 0 if that is of no consequence."""
    known = prod(length for length in shape if length >= 0)
    if known == 0:
        return emitter.ints([0])
    rest = emitter.ints([1])
    for axis in range(value.ndim):
        if axis not in copied:
            rest = emitter.map("Mul", rest, emitter.dim_of(value, axis))
    return emitter.map("Div", rest, emitter.ints([known]))


# Concatenation, gather, select


@lowers("CONCATENATION")
def concatenation(layer: Layer) -> Value:
    """The inputs one after the other along an axis."""
    values = [layer.emitter.cast(layer.raw(index), layer.output_type) for index in range(len(layer.values))]
    return layer.emitter.node(
        "Concat", values, layer.output_type, layer.output_shape, axis=int(layer.api.axis)
    )


@lowers("GATHER")
def gather(layer: Layer) -> Value:
    """Elements or slices of the data by index."""
    mode: str = layer.api.mode.name
    if mode not in _GATHER:
        raise layer.refusal(f"the gather mode {mode} is not supported")
    return _GATHER[mode](layer, layer.raw(0), layer.raw(1))


def _part_of_constant(layer: Layer, data: Value, index: Value) -> Value | None:
    """data[index] of constants: the same memory, so that one matrix out of a stack of them costs no copy."""
    known = index.known_ints() if index.ndim == 0 else None
    if known is None or not -data.shape[0] <= known[0] < data.shape[0]:
        return None
    return constant(np.asarray(data.array()[known[0]]), layer.view.outputs[0].name)


def _gather_slices(layer: Layer, data: Value, indices: Value) -> Value:
    axis, batch = int(layer.api.axis), int(layer.api.num_elementwise_dims)
    emitter, shape = layer.emitter, layer.output_shape
    if batch == 0 and axis == 0 and data.data is not None:
        part = _part_of_constant(layer, data, indices)
        if part is not None:
            return part
    if batch == 0:
        return emitter.node("Gather", [data, indices], data.onnx_type, shape, axis=axis)
    # out[b, before, j.., after] = data[b, before, indices[b, j..], after]: with the gathered axis brought next to
    # the batch, GatherND gives [b, j.., before, after].
    before = list(range(1, axis))
    data = transpose(emitter, data, [0, axis, *before, *range(axis + 1, data.ndim)])
    rows = unsqueeze(emitter, emitter.cast(indices, INT64), indices.ndim)
    gathered_shape = indices.shape + data.shape[2:]
    result = emitter.node("GatherND", [data, rows], data.onnx_type, gathered_shape, batch_dims=1)
    columns = indices.ndim - 1
    first = 1 + columns
    order = [
        0,
        *range(first, first + len(before)),
        *range(1, first),
        *range(first + len(before), result.ndim),
    ]
    return transpose(emitter, result, order)


def _gather_elements(layer: Layer, data: Value, indices: Value) -> Value:
    return layer.emitter.node(
        "GatherElements", [data, indices], data.onnx_type, indices.shape, axis=int(layer.api.axis)
    )


def _gather_nd(layer: Layer, data: Value, indices: Value) -> Value:
    indices = layer.emitter.cast(indices, INT64)
    batch = int(layer.api.num_elementwise_dims)
    return layer.emitter.node(
        "GatherND", [data, indices], data.onnx_type, layer.output_shape, batch_dims=batch
    )


_GATHER = {"DEFAULT": _gather_slices, "ELEMENT": _gather_elements, "ND": _gather_nd}


@lowers("SELECT")
def select(layer: Layer) -> Value:
    """The second input where the first is true, else the third."""
    emitter = layer.emitter
    condition, then, otherwise = layer.raw(0), layer.raw(1), layer.raw(2)
    carrier = CARRIER.get(layer.output_type, layer.output_type)
    then, otherwise = emitter.cast(then, carrier), emitter.cast(otherwise, carrier)
    shape = broadcast_shape(condition.shape, then.shape, otherwise.shape)
    return emitter.node("Where", [condition, then, otherwise], carrier, shape)
