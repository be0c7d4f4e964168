"""Products of stored matrices with a rotation, in float64, a block of rows at a time, rounded once.

A stream x, a row vector, becomes x' = x C Q, with C = I - 1 1^T / h where the mean is taken off (SliceGPT: Ashkboos et
al. 2024, arXiv 2401.15024, section 3) and C = I where not. Then

    what reads it behind a norm of gain g and bias s, y = (n(x) g + s) W^T + b:    W' = W diag(g) Q,  b' = b + W s
    what writes it, x = a W^T + b:                                                 W' = Q^T C W,      b' = b C Q
    tables whose rows are streams:                                                 E' = E C Q

The norm n has no weight left, so that n(x Q) = n(x) Q: an RMS norm for every orthogonal Q, a LayerNorm where Q 1 = 1.
A LayerNorm of x is the RMS norm of x C, with the same eps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Wide = npt.NDArray[np.float64]

# What one block of a product takes in float64.
_BLOCK_BYTES = 16 << 20


@dataclass(frozen=True)
class Fold:
    """rotation: Q, (hidden, hidden) in float64. centre: whether C above takes the mean off."""

    rotation: Wide
    centre: bool = False

    def reader(self, matrix: npt.NDArray, gain: Wide | None) -> Iterator[Wide]:
        """W diag(g) Q of W (out, hidden), by blocks of rows."""
        for rows in _blocks(matrix):
            block = rows.astype(np.float64)
            yield (block if gain is None else block * gain) @ self.rotation

    def table(self, matrix: npt.NDArray) -> Iterator[Wide]:
        """E C Q of E (rows, hidden), by blocks of rows."""
        for rows in _blocks(matrix):
            yield self.vector(rows)

    def writer(self, matrix: npt.NDArray) -> Iterator[Wide]:
        """Q^T C W of W (hidden, in), by blocks of rows. Holds W in float64."""
        wide = matrix.astype(np.float64)
        if self.centre:
            wide -= wide.mean(0)
        for columns in _blocks(self.rotation.T, wide.shape[1]):
            yield columns @ wide

    def vector(self, values: npt.NDArray) -> Wide:
        """x C Q of values (..., hidden)."""
        wide = values.astype(np.float64)
        if self.centre:
            wide = wide - wide.mean(-1, keepdims=True)
        return np.asarray(wide @ self.rotation)


def shifted(matrix: npt.NDArray, shift: Wide) -> Wide:
    """W s of W (out, hidden), without W in float64 as a whole."""
    return np.concatenate([rows.astype(np.float64) @ shift for rows in _blocks(matrix)])


def is_uniform(values: npt.NDArray) -> bool:
    """Whether a gain is one number for all channels, so that it commutes with every rotation."""
    return bool((values == values.flat[0]).all())


def _blocks(matrix: npt.NDArray, columns: int | None = None) -> Iterator[npt.NDArray]:
    """Blocks of rows whose products have that many columns (the matrix's own) and are of moderate size."""
    step = max(1, _BLOCK_BYTES // (8 * max(1, columns or matrix.shape[1])))
    for begin in range(0, len(matrix), step):
        yield matrix[begin : begin + step]
