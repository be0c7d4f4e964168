"""How requests become one batch, and its answer becomes theirs again. Arrays in, arrays out; no server here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trtllm_ext.errors import EngineError, InputError

Arrays = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Extent:
    """The part of a batch that a request takes: rows of the joined dimension, and the length of the padded one."""

    rows: int
    length: int = 0


@dataclass(frozen=True, kw_only=True)
class Joining:
    """Along which dimensions requests are joined.

    inputs, outputs: by name, the dimension that is joined.
    padded: by name, the dimensions that are filled up with zeros to the longest request's, and cut again in outputs.
        Only for models whose results padding does not change.
    limits: the least and the most extent, one pair a profile; length 0 where nothing is padded.
    max_cells: rows times length at most of a joined batch; 0 for no such limit.
    """

    inputs: Mapping[str, int]
    outputs: Mapping[str, int]
    limits: Sequence[tuple[Extent, Extent]]
    padded: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    max_cells: int = 0

    def extent(self, arrays: Arrays) -> Extent:
        """A request's extent. Raises InputError where its inputs disagree."""
        rows = _agreed(arrays, {name: (axis,) for name, axis in self.inputs.items()}, "rows")
        inputs_padded = {name: axes for name, axes in self.padded.items() if name in self.inputs}
        return Extent(rows, _agreed(arrays, inputs_padded, "length"))

    def fits(self, extent: Extent) -> bool:
        """Whether some profile takes a joined batch of this extent."""
        if self.max_cells and extent.rows * extent.length > self.max_cells:
            return False
        return any(
            least.rows <= extent.rows <= most.rows and least.length <= extent.length <= most.length
            for least, most in self.limits
        )

    def most_rows(self) -> int:
        """The most rows that any profile takes."""
        return max(most.rows for _, most in self.limits)

    def group(self, extent: Extent) -> int:
        """Requests of the same group waste at most half of a batch on padding: lengths up to the same power of 2."""
        return (extent.length - 1).bit_length() if extent.length else 0

    def together(self, first: Extent, second: Extent) -> Extent:
        """The extent of a batch of both."""
        return Extent(first.rows + second.rows, max(first.length, second.length))

    def join(self, requests: Sequence[tuple[Arrays, Extent]]) -> Arrays:
        """One batch of the inputs of `requests`, in their order."""
        length = max(extent.length for _, extent in requests)
        return {
            name: np.concatenate(
                [_padded(arrays[name], self.padded.get(name, ()), length) for arrays, _ in requests], axis
            )
            for name, axis in self.inputs.items()
        }

    def split(self, outputs: Arrays, extents: Sequence[Extent]) -> list[Arrays]:
        """For each extent its part of a batch's outputs, in order: views where that can be.

        Raises EngineError for an output that does not have the rows that were joined, and so cannot be dealt out.
        """
        ends = np.cumsum([extent.rows for extent in extents])
        bounds = ends[:-1]
        for name, axis in self.outputs.items():
            if outputs[name].shape[axis] != ends[-1]:
                raise EngineError(
                    f"output {name!r} of shape {outputs[name].shape} is of a batch of {ends[-1]} rows, and does not "
                    f"have them in dimension {axis}."
                )
        answers: list[Arrays] = [{} for _ in extents]
        for name, axis in self.outputs.items():
            for answer, part, extent in zip(
                answers, np.split(outputs[name], bounds, axis), extents, strict=True
            ):
                answer[name] = _cut(part, self.padded.get(name, ()), extent.length)
        return answers


def _agreed(arrays: Arrays, axes: Mapping[str, tuple[int, ...]], what: str) -> int:
    sizes = [(name, arrays[name].shape[axis]) for name in axes for axis in axes[name]]
    for name, size in sizes:
        if size != sizes[0][1]:
            raise InputError(
                f"{what}: {sizes[0][1]} in input {sizes[0][0]!r} but {size} in input {name!r}; they must be equal."
            )
    return sizes[0][1] if sizes else 0


def _padded(array: np.ndarray[Any, Any], axes: tuple[int, ...], length: int) -> np.ndarray[Any, Any]:
    if all(array.shape[axis] == length for axis in axes):
        return array
    widths = [(0, length - size if axis in axes else 0) for axis, size in enumerate(array.shape)]
    return np.pad(array, widths)


def _cut(array: np.ndarray[Any, Any], axes: tuple[int, ...], length: int) -> np.ndarray[Any, Any]:
    return array[tuple(slice(length) if axis in axes else slice(None) for axis in range(array.ndim))]
