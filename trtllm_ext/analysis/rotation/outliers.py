"""How unevenly values lie over the channels of the stream: peaks, heavy tails, the largest channel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Wide = npt.NDArray[np.float64]

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Outliers:
    """Of an array whose last axis is the stream's channels.

    peak: largest magnitude over the rms of all values.
    kurtosis: the fourth moment over the squared second one, about zero (3 for a normal distribution).
    channel: the largest rms of a channel over the rms of all values (1 where all channels are even).
    share: what the largest channel holds of the sum of squares (1 / hidden where all are even).
    """

    peak: float
    kurtosis: float
    channel: float
    share: float


def outliers(values: npt.NDArray) -> Outliers:
    """values: (..., channels), not empty, of any float type. Memory: one copy of a block in float64."""
    rows = values.reshape(-1, values.shape[-1])
    step = max(1, _CHUNK // rows.shape[1])
    squares = np.zeros(rows.shape[1])
    fourth = largest = 0.0
    for begin in range(0, len(rows), step):
        block = rows[begin : begin + step].astype(np.float64)
        largest = max(largest, float(np.abs(block).max()))
        block *= block
        squares += block.sum(0)
        block *= block
        fourth += float(block.sum())
    total = float(squares.sum())
    if total == 0:
        return Outliers(0.0, 0.0, 1.0, 1 / rows.shape[1])
    mean = total / rows.size
    return Outliers(
        peak=largest / mean**0.5,
        kurtosis=fourth / rows.size / mean**2,
        channel=float((squares.max() / len(rows) / mean) ** 0.5),
        share=float(squares.max() / total),
    )
