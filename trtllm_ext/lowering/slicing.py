"""Slice layers: static and dynamic, in all modes.

Output element i along an axis is input element start + i * stride. A strict slice with known nonzero strides is one
ONNX Slice; everything else gathers along each axis by computed indices.
"""

from dataclasses import dataclass

import numpy as np

from trtllm_ext.lowering.element_types import BOOL, INT64
from trtllm_ext.lowering.emitter import Emitter
from trtllm_ext.lowering.layer import Layer
from trtllm_ext.lowering.movement import CARRIER
from trtllm_ext.lowering.registry import lowers
from trtllm_ext.lowering.values import Element, Value

_LOWEST = int(np.iinfo(np.int64).min)


@dataclass(frozen=True)
class _Numbers:
    """Start, size or stride: one number an axis, each known or only in the tensor."""

    elements: tuple[Element, ...]
    tensor: Value | None

    def known(self, position: int) -> int | None:
        element = self.elements[position]
        return element if isinstance(element, int) else None

    def value(self, emitter: Emitter, position: int) -> Value:
        """One of them as a 0-d int64 tensor."""
        known = self.known(position)
        if known is not None or self.tensor is None:
            return emitter.ints(known or 0)
        return emitter.cast(emitter.element(self.tensor, position), INT64)

    def vector(self, emitter: Emitter, positions: list[int]) -> Value:
        """Those at `positions` as a 1-D int64 tensor."""
        known = [self.known(position) for position in positions]
        numbers = [number for number in known if number is not None]
        if len(numbers) == len(known) or self.tensor is None:
            return emitter.ints(numbers)
        tensor = emitter.cast(self.tensor, INT64)
        if positions == list(range(len(self.elements))):
            return tensor
        return emitter.node("Gather", [tensor, emitter.ints(positions)], INT64, (len(positions),), axis=0)


@lowers("SLICE")
def slice_layer(layer: Layer) -> Value:
    """A regular part of the input, or what lies outside of it as the mode says."""
    value, mode = layer.raw(0), layer.api.mode.name
    axes = _axes(layer, value)
    start = _numbers(layer, 1, layer.api.start, len(axes))
    size = _numbers(layer, 2, layer.api.shape, len(axes))
    stride = _numbers(layer, 3, layer.api.stride, len(axes))
    moving = [p for p in range(len(axes)) if not _is_whole(value, axes[p], p, start, size, stride)]
    strides_known = all(stride.known(position) not in (None, 0) for position in moving)
    if not moving:
        return value
    if mode == "STRICT_BOUNDS" and strides_known:
        return _strict(layer, value, axes, moving, start, size, stride)
    if mode not in _OUTSIDE and mode not in ("FILL", "STRICT_BOUNDS"):
        raise layer.refusal(f"the slice mode {mode} is not supported")
    return _gathered(layer, value, axes, moving, start, size, stride)


def _axes(layer: Layer, value: Value) -> tuple[int, ...]:
    """The axes that start, size and stride speak of."""
    if layer.has(5):
        known = layer.raw(5).known_ints()
        if known is None:
            raise layer.refusal("the axes of a slice must be constants")
        return tuple(axis % value.ndim for axis in known)
    try:
        axes = tuple(layer.api.axes)
    except (AttributeError, ValueError):
        axes = ()  # before TensorRT 10 there are none; axes that were never set have no length
    return tuple(axis % value.ndim for axis in axes) or tuple(range(value.ndim))


def _numbers(layer: Layer, index: int, dims: object, count: int) -> _Numbers:
    if layer.has(index):
        tensor = layer.raw(index)
        return _Numbers(tensor.elements or (None,) * count, tensor)
    return _Numbers(tuple(dims), None)  # type: ignore[arg-type]


def _is_whole(
    value: Value, axis: int, position: int, start: _Numbers, size: _Numbers, stride: _Numbers
) -> bool:
    """Whether the slice leaves an axis as it is."""
    if start.known(position) != 0 or stride.known(position) != 1:
        return False
    length = value.lengths[axis]
    return length is not None and size.elements[position] == length


def _strict(
    layer: Layer,
    value: Value,
    axes: tuple[int, ...],
    moving: list[int],
    start: _Numbers,
    size: _Numbers,
    stride: _Numbers,
) -> Value:
    emitter = layer.emitter
    steps = stride.vector(emitter, moving)
    starts = start.vector(emitter, moving)
    ends = _ends(emitter, moving, start, size, stride)
    inputs = [value, starts, ends, emitter.ints([axes[position] for position in moving]), steps]
    return emitter.node("Slice", inputs, value.onnx_type, layer.output_shape)


def _ends(emitter: Emitter, moving: list[int], start: _Numbers, size: _Numbers, stride: _Numbers) -> Value:
    """start + size * stride; below zero, where it would count from the end, the lowest number there is."""
    known = []
    for position in moving:
        first, count, step = start.known(position), size.known(position), stride.known(position)
        if first is None or count is None or step is None:
            break
        end = first + count * step
        known.append(end if end >= 0 else _LOWEST)
    if len(known) == len(moving):
        return emitter.ints(known)
    reach = emitter.map("Mul", size.vector(emitter, moving), stride.vector(emitter, moving))
    ends = emitter.map("Add", start.vector(emitter, moving), reach)
    if all((stride.known(position) or -1) > 0 for position in moving):
        return ends
    below = emitter.map("Less", ends, emitter.ints(0), to=BOOL)
    return emitter.map("Where", below, emitter.ints(_LOWEST), ends, to=INT64)


def _gathered(
    layer: Layer,
    value: Value,
    axes: tuple[int, ...],
    moving: list[int],
    start: _Numbers,
    size: _Numbers,
    stride: _Numbers,
) -> Value:
    emitter, mode = layer.emitter, layer.api.mode.name
    lengths = {position: emitter.dim_of(value, axes[position]) for position in moving}
    if mode == "FILL":
        value = _with_fill(layer, value, [axes[position] for position in moving])
    for position in moving:
        indices = _indices(emitter, position, start, size, stride)
        if mode == "FILL":
            indices = _or_fill(emitter, indices, lengths[position])
        elif mode in _OUTSIDE:
            indices = _OUTSIDE[mode](emitter, indices, lengths[position])
        shape = list(value.shape)
        shape[axes[position]] = indices.shape[0]
        value = emitter.node("Gather", [value, indices], value.onnx_type, tuple(shape), axis=axes[position])
    return value


def _indices(emitter: Emitter, position: int, start: _Numbers, size: _Numbers, stride: _Numbers) -> Value:
    """start + stride * (0 .. size - 1), int64."""
    first, count, step = start.known(position), size.known(position), stride.known(position)
    if first is not None and count is not None and step is not None:
        return emitter.keep(first + step * np.arange(count, dtype=np.int64))
    numbers = emitter.node(
        "Range",
        [emitter.ints(0), size.value(emitter, position), emitter.ints(1)],
        INT64,
        (-1 if count is None else count,),
    )
    scaled = emitter.map("Mul", numbers, stride.value(emitter, position))
    return emitter.map("Add", scaled, start.value(emitter, position))


def _with_fill(layer: Layer, value: Value, axes: list[int]) -> Value:
    """The input with one more element, the fill value, at the end of each axis in `axes`."""
    emitter = layer.emitter
    carrier = CARRIER.get(value.onnx_type, value.onnx_type)
    pads = [0] * value.ndim + [int(axis in axes) for axis in range(value.ndim)]
    fill = layer.raw(4) if layer.has(4) else emitter.scalar(0, carrier)
    if fill.ndim:
        fill = emitter.node("Reshape", [fill, emitter.ints([])], fill.onnx_type, ())
    fill = emitter.cast(emitter.cast(fill, value.onnx_type), carrier) if layer.has(4) else fill
    shape = tuple(
        length + 1 if axis in axes and length >= 0 else length for axis, length in enumerate(value.shape)
    )
    inputs = [emitter.cast(value, carrier), emitter.ints(pads), fill]
    padded = emitter.node("Pad", inputs, carrier, shape, mode="constant")
    return emitter.cast(padded, value.onnx_type)


def _or_fill(emitter: Emitter, indices: Value, length: Value) -> Value:
    """Indices outside of 0 .. length - 1 point behind the end, where the fill value is."""
    below = emitter.map("Less", indices, emitter.ints(0), to=BOOL)
    inside = emitter.map("Where", below, length, indices, to=INT64)
    return emitter.map("Min", inside, length)


def _clamped(emitter: Emitter, indices: Value, length: Value) -> Value:
    last = emitter.map("Sub", length, emitter.ints(1))
    return emitter.map("Max", emitter.map("Min", indices, last), emitter.ints(0))


def _wrapped(emitter: Emitter, indices: Value, length: Value) -> Value:
    # Of an empty input nothing can be taken, but the runtime checks the divisor all the same.
    return emitter.map("Mod", indices, emitter.map("Max", length, emitter.ints(1)))


def _reflected(emitter: Emitter, indices: Value, length: Value) -> Value:
    """Back and forth without repeating the ends: 0 1 2 1 0 1 .. for length 3."""
    last = emitter.map("Sub", length, emitter.ints(1))
    period = emitter.map("Max", emitter.map("Mul", last, emitter.ints(2)), emitter.ints(1))
    phase = emitter.map("Mod", indices, period)
    return emitter.map("Min", phase, emitter.map("Sub", period, phase))


_OUTSIDE = {"CLAMP": _clamped, "WRAP": _wrapped, "REFLECT": _reflected}
