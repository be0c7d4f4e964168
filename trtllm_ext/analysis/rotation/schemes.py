"""Quantisation that is simulated in float64: values are rounded to a narrow type's grid and multiplied back.

int8: round(x / s) between -127 and 127, s = largest magnitude / 127; ties to even, symmetric, no zero point.
fp8: the nearest float8 e4m3 (finite ones alone, up to 448; Micikevicius et al. 2022, arXiv 2209.05433) of x / s,
s = largest magnitude / 448.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Wide = npt.NDArray[np.float64]
Grain = Literal["row", "tensor"]

_INT8_LARGEST = 127.0
_FP8_LARGEST = 448.0
# Of fp8 e4m3: the smallest normal number is 2^-6, and between powers of two lie 2^3 numbers.
_FP8_LEAST_EXPONENT, _FP8_DIGITS = -6, 3

_BLOCK = 1 << 18


def to_int8(values: Wide, grain: Grain) -> Wide:
    """values: (..., rows, columns); one scale for each row, or for all. Memory: the result and small blocks."""
    return _rounded(values, grain, _INT8_LARGEST, np.rint)


def to_fp8(values: Wide, grain: Grain) -> Wide:
    """values: (..., rows, columns); one scale for each row, or for all. Memory: the result and small blocks."""
    return _rounded(values, grain, _FP8_LARGEST, nearest_fp8)


def nearest_fp8(values: Wide) -> Wide:
    """The nearest numbers of fp8 e4m3, ties to even, of values between -448 and 448."""
    _, exponent = np.frexp(values)  # values = m 2^exponent with |m| in [1/2, 1)
    step = np.ldexp(1.0, np.maximum(exponent - 1, _FP8_LEAST_EXPONENT) - _FP8_DIGITS)
    return np.asarray(np.rint(values / step) * step)


def exact(values: Wide) -> Wide:
    return values


def _rounded(values: Wide, grain: Grain, largest: float, grid: Callable[[Wide], Wide]) -> Wide:
    rows = values.reshape(-1, values.shape[-1])
    # Not the largest of absolute values, which would be another matrix.
    axis = 1 if grain == "row" else None
    size = np.maximum(rows.max(axis, keepdims=True), -rows.min(axis, keepdims=True))
    scale = np.broadcast_to(np.where(size > 0, size / largest, 1.0), (len(rows), 1))
    result = np.empty_like(rows)
    step = max(1, _BLOCK // rows.shape[1])
    for begin in range(0, len(rows), step):
        part = slice(begin, begin + step)
        result[part] = grid(rows[part] / scale[part]) * scale[part]
    return result.reshape(values.shape)


@dataclass(frozen=True)
class Scheme:
    """name: in tables. weights: of a matrix (out_features, in_features). activations: of (tokens, in_features), which
    every matrix of the scheme is multiplied by. meaning: in words."""

    name: str
    weights: Callable[[Wide], Wide]
    activations: Callable[[Wide], Wide]
    meaning: str


EXACT = Scheme("exact", exact, exact, "no quantisation")
SCHEMES = (
    Scheme(
        "int8 weights",
        lambda w: to_int8(w, "row"),
        exact,
        "weights int8, a scale for each row; activations exact",
    ),
    Scheme(
        "int8",
        lambda w: to_int8(w, "row"),
        lambda x: to_int8(x, "row"),
        "weights int8, a scale for each row; activations int8, a scale for each token",
    ),
    Scheme(
        "fp8 tensor",
        lambda w: to_fp8(w, "tensor"),
        lambda x: to_fp8(x, "tensor"),
        "weights and activations fp8 e4m3, one scale for each tensor",
    ),
    Scheme(
        "fp8 row",
        lambda w: to_fp8(w, "row"),
        lambda x: to_fp8(x, "row"),
        "weights fp8 e4m3, a scale for each row; activations fp8 e4m3, a scale for each token",
    ),
)
