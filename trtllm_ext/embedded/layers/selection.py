"""Views of the layers that pick elements, put them elsewhere, or go along a dimension in order."""

from __future__ import annotations

from typing import Any

from trtllm_ext.embedded.enums import (
    CumulativeOperation,
    DataType,
    ScatterMode,
    Severity,
    TopKOperation,
)
from trtllm_ext.embedded.layers.base import (
    Attribute,
    ILayer,
    as_int,
    as_mask,
    enum_attribute,
    member_of,
)


class _IndicesType(Attribute[DataType]):
    """The type of indices: INT32 or INT64; any other is only logged, and changes nothing."""

    def __init__(self) -> None:
        super().__init__(member_of(DataType), "The type of the indices: INT32 or INT64.")

    def __set__(self, layer: ILayer, value: Any) -> None:
        dtype = member_of(DataType)(value)
        if dtype in (DataType.INT32, DataType.INT64):
            super().__set__(layer, dtype)
        else:
            layer._node.graph.log(
                Severity.ERROR, f"{layer.name}: indices_type must be INT32 or INT64, not {dtype.name}"
            )


class ITopKLayer(ILayer):
    """The largest or smallest elements along a dimension, and where they were; input 1 replaces `k`."""

    __slots__ = ()
    op = enum_attribute(TopKOperation, "Whether the largest or the smallest are wanted.")
    axes = Attribute[int](as_mask, "Bit mask with the one dimension.")
    indices_type = _IndicesType()

    @property
    def k(self) -> int:
        """How many elements to keep; -1 while input 1 says it. Setting it takes input 1 away."""
        k: int = self._node.attributes["k"]
        return k if self.get_input(1) is None else -1

    @k.setter
    def k(self, k: int) -> None:
        number = as_int(k)
        if self.get_input(1) is not None:
            self._node.connect(1, None)
        self._node.set_attribute("k", number)


class INonZeroLayer(ILayer):
    """The positions of all elements other than zero."""

    __slots__ = ()
    indices_type = _IndicesType()


class IScatterLayer(ILayer):
    """A tensor with some of its elements or slices replaced."""

    __slots__ = ()
    axis = Attribute[int](as_int, "The dimension that indices go into; unused in mode ND.")
    mode = enum_attribute(ScatterMode, "How indices are read.")


class IOneHotLayer(ILayer):
    """Indices as vectors with one element set."""

    __slots__ = ()
    axis = Attribute[int](as_int, "Where the new dimension goes.")


class ICumulativeLayer(ILayer):
    """Running sums along a dimension."""

    __slots__ = ()
    op = enum_attribute(CumulativeOperation, "The operation.")
    exclusive = Attribute[bool](bool, "Whether each sum leaves out the element that it stands at.")
    reverse = Attribute[bool](bool, "Whether to sum from the end.")


class IReverseSequenceLayer(ILayer):
    """The beginnings of sequences in reverse."""

    __slots__ = ()
    batch_axis = Attribute[int](as_int, "The dimension that tells the sequences apart.")
    sequence_axis = Attribute[int](as_int, "The dimension that is reversed.")


class ISqueezeLayer(ILayer):
    """The input without some dimensions of length 1."""

    __slots__ = ()


class IUnsqueezeLayer(ILayer):
    """The input with more dimensions of length 1."""

    __slots__ = ()
