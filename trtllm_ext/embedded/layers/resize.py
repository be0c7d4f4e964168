"""The view of the layer that resizes images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from trtllm_ext.embedded.enums import (
    InterpolationMode,
    ResizeCoordinateTransformation,
    ResizeRoundMode,
    ResizeSelector,
    Severity,
)
from trtllm_ext.embedded.layers.base import Attribute, ILayer, as_dims, as_float, enum_attribute
from trtllm_ext.embedded.types import Dims


class IResizeLayer(ILayer):
    """Interpolation to other lengths, which come from `shape`, from `scales`, or from input 1."""

    __slots__ = ()
    resize_mode = enum_attribute(InterpolationMode, "The interpolation.")
    coordinate_transformation = enum_attribute(
        ResizeCoordinateTransformation, "Where in the input an element of the output lies."
    )
    selector_for_single_pixel = enum_attribute(
        ResizeSelector, "What a dimension of length 1 takes: the formula's place, or the first element."
    )
    nearest_rounding = enum_attribute(ResizeRoundMode, "How NEAREST rounds a place to an element.")
    exclude_outside = Attribute[bool](
        bool, "Whether elements beyond the border weigh nothing; else the border is repeated."
    )
    cubic_coeff = Attribute[float](as_float, "The coefficient of the cubic kernel.")

    @property
    def shape(self) -> Dims:
        """The shape of the output. Until set, `len()` of it raises ValueError. Setting it unsets `scales`."""
        stored: tuple[int, ...] | None = self._node.attributes["shape"]
        return Dims._invalid() if stored is None else Dims(stored)

    @shape.setter
    def shape(self, shape: Dims) -> None:
        self._set_lengths("shape", shape=as_dims(shape), scales=None)

    @property
    def scales(self) -> list[float]:
        """Length of the output over length of the input, by dimension; empty until set. Setting it unsets `shape`."""
        return list(self._node.attributes["scales"] or ())

    @scales.setter
    def scales(self, scales: Iterable[float]) -> None:
        self._set_lengths("scales", shape=None, scales=tuple(as_float(scale) for scale in scales))

    def _set_lengths(self, what: str, **attributes: Any) -> None:
        node = self._node
        if len(node.inputs) > 1 and node.inputs[1] is not None:
            node.graph.log(Severity.ERROR, f"{node.name}: {what} cannot be set: input 1 decides the lengths")
            return
        node.attributes.update(attributes)
        node.graph.invalidate(node)
