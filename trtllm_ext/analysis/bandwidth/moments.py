"""Second moments of vectors that come in chunks, and what their spectrum says about how many directions are in use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trtllm_ext.errors import InputError

Array = npt.NDArray[np.float64]


class Moments:
    """Mean and scatter of vectors of one size, in float64, whatever their number.

    Chunks are joined by their means (Chan, Golub, LeVeque 1979, "Updating formulae and a pairwise algorithm for
    computing sample variances"), so that a large mean costs no digits of the variance.
    Memory: two matrices (hidden, hidden) while a chunk is added, one between.
    """

    def __init__(self, hidden_size: int) -> None:
        self.count = 0
        self.mean: Array = np.zeros(hidden_size)
        self._scatter: Array = np.zeros((hidden_size, hidden_size))

    def add(self, vectors: npt.NDArray[Any]) -> None:
        """vectors: (tokens, hidden) of any float type. Raises InputError for another size, NaN and infinity."""
        if vectors.ndim != 2 or vectors.shape[1] != self.mean.size:
            raise InputError(f"vectors of shape {vectors.shape} came; expected (tokens, {self.mean.size}).")
        if not len(vectors):
            return
        wide = vectors.astype(np.float64)
        mean = wide.mean(0)
        if not np.isfinite(mean).all():
            raise InputError(
                "the stream holds NaN or infinity, which has no spectrum. Find the sublayer with `trtllm-ext verify`."
            )
        wide -= mean
        step, total = mean - self.mean, self.count + len(wide)
        self._scatter += wide.T @ wide
        self._scatter += np.outer(step, step * (self.count * len(wide) / total))
        self.mean += step * (len(wide) / total)
        self.count = total

    def second(self, *, centred: bool = True) -> Array:
        """(hidden, hidden): the covariance (divided by the number of vectors), or the mean of x x^T."""
        covariance = self._scatter / max(self.count, 1)
        return covariance if centred else covariance + np.outer(self.mean, self.mean)


@dataclass(frozen=True)
class Dimensions:
    """How many directions a spectrum of variances fills, by four measures.

    participation_ratio: (sum l)^2 / sum l^2; n equal variances give n.
    effective_rank: exp of the entropy of l / sum l (Roy, Vetterli 2007, "The effective rank: a measure of effective
        dimensionality", who take a matrix's singular values for l).
    for_90, for_99: the fewest directions that hold that share of the variance.
    """

    total: float
    participation_ratio: float
    effective_rank: float
    for_90: int
    for_99: int


def dimensions(values: Array) -> Dimensions:
    """Of values that are not negative, in any order; all 0 where they are all 0."""
    values = -np.sort(-values)
    total = float(values.sum())
    if not total > 0:
        return Dimensions(0.0, 0.0, 0.0, 0, 0)
    share = values / total
    positive = share[share > 0]
    return Dimensions(
        total=total,
        participation_ratio=float(1.0 / (share @ share)),
        effective_rank=float(np.exp(-(positive * np.log(positive)).sum())),
        for_90=directions_for(values, 0.9),
        for_99=directions_for(values, 0.99),
    )


def directions_for(values: Array, share: float) -> int:
    """The fewest of `values`, the largest first, that hold `share` of their sum."""
    held = np.cumsum(values)
    return int(np.searchsorted(held, share * held[-1] * (1 - 1e-12))) + 1 if held[-1] > 0 else 0


def variances(second: Array) -> Array:
    """The eigenvalues of a second moment, the largest first; what rounding made negative is 0."""
    return np.maximum(np.linalg.eigvalsh(second)[::-1], 0.0)


def directions(second: Array) -> tuple[Array, Array]:
    """`variances` (n,) and the unit directions that have them, as columns (hidden, n)."""
    values, vectors = np.linalg.eigh(second)
    return np.maximum(values[::-1], 0.0), vectors[:, ::-1]
