"""Weights of ours as pieces of source weights: which part of each, turned which way, one after the other.

Of GPT-2's first matrix, Phi-3's gate, GPT-OSS' gate, Mixtral's experts, and BERT's q, k and v:

    Piece("h.0.mlp.c_fc.weight", (hidden, ffn)).transpose()
    Piece("layers.0.mlp.gate_up_proj.weight", (2 * ffn, hidden)).half(0)
    Piece("experts.gate_up_proj", (experts, hidden, 2 * ffn)).transpose().every_second(0, axis=1)
    stack(*(Piece(f"experts.{i}.w1.weight", (ffn, hidden)) for i in range(experts)))
    rows(Piece(query, square), Piece(key, square), Piece(value, square))
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from trtllm_ext.errors import CheckpointError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Piece:
    """A source weight, or a regular part of it: a view, never a copy.

    name: the converter's own name of the source weight. source_shape: the shape that it has to have.
    ranges: the indices taken, one range for each axis of the source; all of them unless given.
    transposed: the last two axes change places, after the ranges are taken.
    Each method gives a new Piece; they combine in any order. `axis` counts the axes of the piece as it is then.
    Raises CheckpointError for a view that the shape does not allow.
    """

    name: str
    source_shape: Shape
    ranges: tuple[range, ...] = ()
    transposed: bool = False

    def __post_init__(self) -> None:
        if not self.ranges:
            object.__setattr__(self, "ranges", tuple(map(range, self.source_shape)))

    @property
    def shape(self) -> Shape:
        sizes = tuple(map(len, self.ranges))
        return (*sizes[:-2], sizes[-1], sizes[-2]) if self.transposed else sizes

    @property
    def pieces(self) -> tuple[Piece, ...]:
        return (self,)

    def transpose(self) -> Piece:
        """The last two axes swapped: for matrices stored as (in_features, out_features)."""
        if len(self.source_shape) < 2:
            raise CheckpointError(f"{self.name} of shape {self.source_shape} has no two axes to swap.")
        return replace(self, transposed=not self.transposed)

    def half(self, index: int, axis: int = 0) -> Piece:
        """The first (index 0) or second (1) half of an axis."""
        size = self._even("halves", index, axis) // 2
        return self.take(axis, slice(index * size, (index + 1) * size))

    def every_second(self, start: int, axis: int = -1) -> Piece:
        """Indices 0, 2, 4, ... (start 0) or 1, 3, 5, ... (1) of an axis."""
        self._even("pairs", start, axis)
        return self.take(axis, slice(start, None, 2))

    def only(self, index: int, axis: int = 0) -> Piece:
        """One index of an axis, which stays: an expert's part of a stacked weight."""
        return self.take(axis, slice(index, index + 1))

    def view(self, values: npt.NDArray) -> npt.NDArray:
        """The piece of a source weight's values, which have `source_shape`; a view, often not contiguous."""
        taken: tuple[Any, ...] = tuple(slice(r.start, r.stop, r.step) for r in self.ranges)
        part: npt.NDArray = values[(*taken, ...)]
        return np.swapaxes(part, -1, -2) if self.transposed else part

    def _even(self, what: str, index: int, axis: int) -> int:
        if index not in (0, 1) or not -len(self.shape) <= axis < len(self.shape):
            raise CheckpointError(f"{self.name} {self.shape}: no part {index} of {what} along axis {axis}.")
        if self.shape[axis] % 2:
            raise CheckpointError(
                f"{self.name} is expected in the shape {self.source_shape}, and {self.shape[axis]} along axis "
                f"{axis} of {self.shape} does not split into {what}."
            )
        return self.shape[axis]

    def take(self, axis: int, part: slice) -> Piece:
        """A part of an axis, which stays."""
        ndim = len(self.ranges)
        place = axis % ndim
        if self.transposed and place >= ndim - 2:
            place = 2 * ndim - 3 - place
        taken = (*self.ranges[:place], self.ranges[place][part], *self.ranges[place + 1 :])
        return replace(self, ranges=taken)


@dataclass(frozen=True)
class Joined:
    """Pieces whose values follow each other, in row-major order, in a weight of `shape`."""

    pieces: tuple[Piece, ...]
    shape: Shape


Weight = Piece | Joined


def rows(*parts: Weight) -> Joined:
    """Parts under each other along their first axis: q, k and v in one matrix."""
    if len({part.shape[1:] for part in parts}) != 1 or not parts[0].shape:
        raise CheckpointError(f"Rows of the shapes {_shapes(parts)} cannot follow each other in one weight.")
    return Joined(_flat(parts), (sum(part.shape[0] for part in parts), *parts[0].shape[1:]))


def stack(*parts: Weight) -> Joined:
    """Parts of one shape along a new first axis: experts that are stored one by one."""
    if len({part.shape for part in parts}) != 1:
        raise CheckpointError(f"Weights of the shapes {_shapes(parts)} cannot be stacked.")
    return Joined(_flat(parts), (len(parts), *parts[0].shape))


def _flat(parts: tuple[Weight, ...]) -> tuple[Piece, ...]:
    return tuple(piece for part in parts for piece in part.pieces)


def _shapes(parts: tuple[Weight, ...]) -> str:
    return ", ".join(map(str, dict.fromkeys(part.shape for part in parts))) or "(none)"


def unused_part(shape: Shape, uses: list[tuple[range, ...]]) -> str:
    """What no use of a weight takes, such as "[12:24, :]"; empty when every element is taken.

    uses: the ranges of each use, one for each axis. Where several parts are left, one of them is named.
    """
    classes = [_classes(size, [use[axis] for use in uses]) for axis, size in enumerate(shape)]
    taken = np.zeros([len(groups) for groups in classes], bool)
    for use in uses:
        taken[np.ix_(*([group[0] in use[axis] for group in classes[axis]] for axis in range(len(shape))))] = (
            True
        )
    if taken.all():
        return ""
    place = np.argwhere(~taken)[0]
    parts = (_slice(size, classes[axis][place[axis]]) for axis, size in enumerate(shape))
    return f"[{', '.join(parts)}]"


def _classes(size: int, ranges: list[range]) -> list[npt.NDArray]:
    """The indices of an axis, grouped by which of the ranges hold them."""
    distinct = list(dict.fromkeys(ranges))
    if distinct == [range(size)]:
        return [np.arange(size)]
    held = np.zeros((len(distinct), size), bool)
    for index, taken in enumerate(distinct):
        held[index, taken.start : taken.stop : taken.step] = True
    _, group = np.unique(held, axis=1, return_inverse=True)
    return [np.flatnonzero(group.reshape(-1) == number) for number in range(group.max() + 1)]


def _slice(size: int, indices: npt.NDArray) -> str:
    if len(indices) == size:
        return ":"
    first, last = int(indices[0]), int(indices[-1])
    step = int(indices[1]) - first if len(indices) > 1 else 1
    if not np.array_equal(indices, np.arange(first, last + 1, step)):
        return f"{len(indices)} of {size}"
    return f"{first}:{last + 1}" if step == 1 else f"{first}:{last + 1}:{step}"
