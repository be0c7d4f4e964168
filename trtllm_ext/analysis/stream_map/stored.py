"""Matrices and vectors of a stored model, by name, as parts of the weights in its files; loaded when asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt

from trtllm_ext.checkpoint.convert.pieces import Piece, Shape
from trtllm_ext.checkpoint.convert.stream import stream
from trtllm_ext.errors import CheckpointError

Array = npt.NDArray[np.floating]


class StoredWeights(Protocol):
    """A model's weights, as its files have them."""

    def values(self, name: str) -> npt.NDArray:
        """A whole weight, often a view of mapped pages."""

    def release_pages(self, name: str) -> None:
        """Let the system take back the pages of one weight."""


@dataclass(frozen=True)
class Matrix:
    """A matrix of shape (out_features, in_features).

    name: what it is called here, 'transformer.layers.3.mlp.fc'.
    shape: as it is used, whatever way round it is stored.
    load: its values, float32, or float64 where they are stored so; a new array each time.
    pieces: where they are stored: parts of weights, named as in the model's files, whose rows follow each other in this
        matrix. `piece.view(values)` of a weight's values is that part the right way round, of shape (1, rows, columns)
        where the weight has a stack of experts, and of any shape with these elements where it is no matrix (an image
        patch's, (hidden, channels, height, width)). With a copy of the values it writes the matrix too:
        `piece.view(copy)[...] = rows`. Only a weight that is stored in a code (MXFP4) cannot be written.
    """

    name: str
    shape: tuple[int, int]
    load: Callable[[], Array]
    pieces: tuple[Piece, ...]

    weights: StoredWeights

    @property
    def float32_bytes(self) -> int:
        return 4 * self.shape[0] * self.shape[1]

    @property
    def sliceable(self) -> bool:
        """Whether `part` can be asked for: not of what is stored as no matrix."""
        stacked = [piece.shape for piece in self.pieces if len(piece.shape) > 1]
        heights = [int(np.prod(shape[:-1])) for shape in stacked]
        return len(stacked) == len(self.pieces) and (sum(heights), stacked[0][-1]) == self.shape

    def part(self, axis: int, start: int, stop: int) -> Matrix:
        """Some of its rows (axis 0) or columns (1)."""
        if axis == 0:
            return matrix(f"{self.name}[{start}:{stop}]", self.weights, rows(self.pieces, start, stop))
        pieces = [piece.take(len(piece.shape) - 1, slice(start, stop)) for piece in self.pieces]
        return matrix(f"{self.name}[:, {start}:{stop}]", self.weights, pieces)


@dataclass(frozen=True)
class Vector:
    """A vector as it is used: called, it gives the stored values plus `offset`, or tanh of them (`tanh`), in float64.

    name, load, pieces: as a Matrix'; load gives the values as stored. transform: what is done with them.
    """

    name: str
    size: int
    load: Callable[[], Array]
    pieces: tuple[Piece, ...]
    offset: float = 0.0
    tanh: bool = False

    def __call__(self) -> Array:
        values = self.load().astype(np.float64) + self.offset
        return np.tanh(values) if self.tanh else values


def matrix(
    name: str, weights: StoredWeights, pieces: Sequence[Piece], shape: tuple[int, int] | None = None
) -> Matrix:
    """The matrix whose rows are those of the pieces, one after the other.

    shape: where a piece is no matrix, the shape that its elements have in row-major order.
    """
    if shape is None:
        heights = [piece.shape[-2] for piece in pieces]
        shape = (sum(heights), pieces[0].shape[-1])
    return Matrix(name, shape, partial(_load, weights, tuple(pieces), shape), tuple(pieces), weights)


def vector(
    name: str, weights: StoredWeights, pieces: Sequence[Piece], *, offset: float = 0.0, tanh: bool = False
) -> Vector:
    """The vector of the pieces' elements, one after the other."""
    size = sum(piece.shape[-1] for piece in pieces)
    return Vector(name, size, partial(_load, weights, tuple(pieces), (size,)), tuple(pieces), offset, tanh)


def _load(weights: StoredWeights, pieces: Sequence[Piece], shape: Shape) -> Array:
    """One weight's pages at a time stay resident, while they are copied."""
    result: Array | None = None
    begin = 0
    for piece in pieces:
        source = weights.values(piece.name)
        if source.shape != piece.source_shape:
            raise CheckpointError(
                f"{piece.name} has shape {source.shape}, the config calls for {piece.source_shape}."
            )
        view = piece.view(source)
        if result is None:
            result = np.empty(
                np.prod(shape, dtype=int), np.float64 if view.dtype == np.float64 else np.float32
            )
        for chunk in stream(view, partial(weights.release_pages, piece.name)):
            result[begin : begin + chunk.size] = chunk
            begin += chunk.size
        del view, source
    assert result is not None
    return result.reshape(shape)


def rows(pieces: Sequence[Piece], start: int, stop: int) -> tuple[Piece, ...]:
    """Rows (or a vector's elements) `start` to `stop` of what the pieces make up."""
    taken, begin = [], 0
    for piece in pieces:
        axis = -2 if len(piece.shape) > 1 else 0
        count = piece.shape[axis]
        low, high = max(start - begin, 0), min(stop - begin, count)
        if low < high:
            taken.append(piece.take(axis % len(piece.shape), slice(low, high)))
        begin += count
    return tuple(taken)


def expert(pieces: Sequence[Piece], index: int, ndim: int) -> tuple[Piece, ...]:
    """One expert's part of a weight of ours with `ndim` axes, the first of which counts experts."""
    begin = 0
    for piece in pieces:
        stacked = len(piece.shape) == ndim
        count = piece.shape[0] if stacked else 1
        if begin <= index < begin + count:
            return (piece.only(index - begin) if stacked else piece,)
        begin += count
    raise CheckpointError(f"there is no expert {index} among {begin}.")


def named(piece: Piece, name: str) -> Piece:
    """The same part of a weight under another name."""
    return replace(piece, name=name)
