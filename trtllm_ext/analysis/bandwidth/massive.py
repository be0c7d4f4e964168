"""Massive activations: the few dimensions of the stream that hold most of its norm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
# Sun et al. 2024, arXiv 2402.17762, section 2: a magnitude above 100 that is about 1000 times the median magnitude of
# its hidden state.
MASSIVE_VALUE, MASSIVE_RATIO = 100.0, 1000.0


@dataclass(frozen=True)
class Dimension:
    """One dimension of the stream. share: of the mean squared norm. value: the largest by magnitude, at `token`.

    text: that token's, None without words.
    ratio: the largest of |value| / median magnitude of the same token. is_massive: by Sun et al.'s criterion, in one
    token at least.
    """

    index: int
    share: float
    value: float
    token: int
    text: str | None
    ratio: float
    is_massive: bool


class Magnitudes:
    """What each dimension holds of the norm, over tokens that come in chunks."""

    def __init__(self, hidden_size: int) -> None:
        self.count = 0
        self._squares: Array = np.zeros(hidden_size)
        self._largest: Array = np.zeros(hidden_size)
        self._ratio: Array = np.zeros(hidden_size)
        self._token = np.zeros(hidden_size, np.int64)
        self._texts: list[str | None] = [None] * hidden_size
        self._massive = np.zeros(hidden_size, bool)

    def add(self, vectors: npt.NDArray[Any], first: int, texts: Sequence[str] | None = None) -> None:
        """vectors: (tokens, hidden). first: the number of the first of them among all tokens. texts: of each."""
        if not len(vectors):
            return
        wide = vectors.astype(np.float64)
        size = np.abs(wide)
        self._squares += (wide**2).sum(0)
        rows, columns = size.argmax(0), np.arange(size.shape[1])
        largest = wide[rows, columns]
        larger = np.abs(largest) > np.abs(self._largest)
        self._largest = np.where(larger, largest, self._largest)
        self._token = np.where(larger, first + rows, self._token)
        if texts is not None:
            for index in np.flatnonzero(larger):
                self._texts[index] = texts[rows[index]]
        ratio = size / np.maximum(np.median(size, axis=1, keepdims=True), np.finfo(np.float64).tiny)
        self._ratio = np.maximum(self._ratio, ratio.max(0))
        self._massive |= ((size > MASSIVE_VALUE) & (ratio > MASSIVE_RATIO)).any(0)
        self.count += len(wide)

    @property
    def shares(self) -> Array:
        """(hidden,): each dimension's share of the mean squared norm."""
        total = self._squares.sum()
        return self._squares / total if total > 0 else self._squares.copy()

    @property
    def norm(self) -> float:
        """The root of the mean squared norm."""
        return float(np.sqrt(self._squares.sum() / max(self.count, 1)))

    def named(self, most: int) -> list[Dimension]:
        """The dimensions with the largest shares, and then those that are massive; `most` in all."""
        shares = self.shares
        order = np.argsort(-shares, kind="stable")
        massive = [int(index) for index in order if self._massive[index]]
        chosen = massive[:most] + [int(index) for index in order if not self._massive[index]]
        chosen = sorted(chosen[:most], key=lambda index: -shares[index])
        return [
            Dimension(
                index,
                float(shares[index]),
                float(self._largest[index]),
                int(self._token[index]),
                self._texts[index],
                float(self._ratio[index]),
                bool(self._massive[index]),
            )
            for index in chosen
        ]
