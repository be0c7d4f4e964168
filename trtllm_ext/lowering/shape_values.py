"""What is known at lowering about the elements of shape tensors.

A shape is often taken apart and put together again (shape, gather, concatenation) only to say "as long as this
input". Following the elements turns such a reshape into one with constant dims, and such a slice into nothing.
"""

from collections.abc import Callable

from trtllm_ext.lowering.element_types import INTEGERS
from trtllm_ext.lowering.layer import Layer
from trtllm_ext.lowering.values import MAX_FOLLOWED, Element, Value

Elements = tuple[Element, ...] | None


def elements_of(layer: Layer, value: Value) -> Elements:
    """The known elements of a layer's result, None where nothing is known."""
    count = value.shape[0] if value.ndim else 1
    if value.onnx_type not in INTEGERS or value.ndim > 1 or not 0 <= count <= MAX_FOLLOWED:
        return None
    follow = _FOLLOW.get(layer.view.kind)
    elements = None if follow is None else follow(layer)
    return elements if elements is not None and len(elements) == count else None


def _shape(layer: Layer) -> Elements:
    return layer.raw(0).lengths


def _same(layer: Layer) -> Elements:
    return layer.raw(0).elements


def _concatenation(layer: Layer) -> Elements:
    parts: list[Element] = []
    for index in range(len(layer.values)):
        part = layer.raw(index)
        if part.ndim != 1 or part.shape[0] < 0:
            return None
        parts.extend(part.elements or (None,) * part.shape[0])
    return tuple(parts)


def _gather(layer: Layer) -> Elements:
    data, indices = layer.raw(0).elements, layer.raw(1).known_ints()
    if layer.api.mode.name != "DEFAULT" or data is None or indices is None or layer.raw(0).ndim != 1:
        return None
    if not all(-len(data) <= index < len(data) for index in indices):
        return None
    return tuple(data[index] for index in indices)


def _slice(layer: Layer) -> Elements:
    data = layer.raw(0).elements
    if data is None or layer.raw(0).ndim != 1 or any(layer.has(index) for index in range(1, 6)):
        return None
    start, size, stride = layer.api.start[0], layer.api.shape[0], layer.api.stride[0]
    chosen = [start + step * stride for step in range(size)]
    return tuple(data[index] for index in chosen) if all(0 <= i < len(data) for i in chosen) else None


_FOLLOW: dict[str, Callable[[Layer], Elements]] = {
    "SHAPE": _shape,
    "CAST": _same,
    "IDENTITY": _same,
    "SHUFFLE": _same,
    "SQUEEZE": _same,
    "UNSQUEEZE": _same,
    "CONCATENATION": _concatenation,
    "GATHER": _gather,
    "SLICE": _slice,
}
