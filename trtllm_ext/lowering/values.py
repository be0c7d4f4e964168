"""A value on its way through the lowering."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from trtllm_ext.lowering.element_types import onnx_type_of_numpy

# Longest integer tensor whose elements are followed; shapes have at most 8.
MAX_FOLLOWED = 16


@dataclass(frozen=True, slots=True)
class Symbol:
    """A length known only at run time; equal symbols stand for equal lengths.

    `name` is what the network calls the dimension, or with an `axis` the tensor whose length it is. So no name that
    a network gives can be taken for a length that has none.
    """

    name: str
    axis: int | None = None

    def __str__(self) -> str:
        return self.name if self.axis is None else f"{self.name}.{self.axis}"


# A length, or an element of a shape tensor: a number, a length known only at run time, or unknown.
Element = int | Symbol | None


@dataclass(frozen=True, eq=False)
class Value:
    """One tensor of the ONNX graph, or a constant that may still become one.

    `shape` has -1 where a length is not known. A constant has `data`, a 1-D array that borrows its owner's memory;
    it becomes an initializer in the shape in which it is used. `elements` is what is known about the elements of a
    small 1-D or 0-d integer tensor, `symbols` stand for the lengths that are not known (empty: none has one).
    """

    name: str
    onnx_type: int
    shape: tuple[int, ...]
    data: np.ndarray[Any, Any] | None = None
    elements: tuple[Element, ...] | None = None
    symbols: tuple[Symbol | None, ...] = ()

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def is_static(self) -> bool:
        """Whether every length is known."""
        return all(length >= 0 for length in self.shape)

    @property
    def lengths(self) -> tuple[Element, ...]:
        """The lengths: numbers, symbols, or None."""
        symbols = self.symbols or (None,) * self.ndim
        return tuple(
            length if length >= 0 else symbol for length, symbol in zip(self.shape, symbols, strict=True)
        )

    def reshaped(self, shape: tuple[int, ...]) -> "Value":
        """The same constant in another static shape of equal volume."""
        return replace(self, shape=shape)

    def array(self) -> np.ndarray[Any, Any]:
        """A constant's elements in its shape."""
        if self.data is None:
            raise ValueError(f"{self.name} is not a constant")
        return self.data.reshape(self.shape)

    def known_ints(self) -> tuple[int, ...] | None:
        """All elements of a small integer tensor, if they are known."""
        if self.elements is None:
            return None
        known = tuple(element for element in self.elements if isinstance(element, int))
        return known if len(known) == len(self.elements) else None


def constant(array: np.ndarray[Any, Any], name: str = "") -> Value:
    """A constant value over a C-contiguous `array`, whose memory it borrows."""
    elements: tuple[Element, ...] | None = None
    if array.dtype.kind == "i" and array.ndim <= 1 and array.size <= MAX_FOLLOWED:
        elements = tuple(int(element) for element in array.reshape(-1))
    return Value(name, onnx_type_of_numpy(array.dtype), array.shape, array.reshape(-1), elements)


def broadcast_shape(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of an elementwise result; -1 where it is not known."""
    rank = max(len(shape) for shape in shapes)
    columns = zip(*((1,) * (rank - len(shape)) + shape for shape in shapes), strict=True)
    result = []
    for lengths in columns:
        known = [length for length in lengths if length not in (1, -1)]
        result.append(known[0] if known else (-1 if -1 in lengths else 1))
    return tuple(result)
