"""How near two results of one network are, and how near they must be."""

from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# Of the largest value, where the same engine runs on another processor: other kernels add in another order, and what
# is to be found here (a weight, a rank or a layer that is not the right one) is as large as the values themselves.
PORTABLE = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}
# Between a model over several ranks and the same on one: sums are added in another order, and seldom rounded to the
# neighbour; through the layers of a deep model a few of those add up.
SHARDED = {"float32": 1e-5, "float16": 5e-3, "bfloat16": 4e-2}


def relative_difference(got: Array, expected: Array) -> float:
    """Largest difference of two arrays by the largest magnitude of `expected`; infinite if shapes or NaN differ."""
    if got.shape != expected.shape:
        return float("inf")
    if not expected.size:
        return 0.0
    left, right = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        return 0.0 if np.array_equal(left, right, equal_nan=True) else float("inf")
    largest = float(np.abs(right).max()) or 1.0
    return float(np.abs(left - right).max()) / largest


def worst_difference(got: Mapping[str, Array], expected: Mapping[str, Array]) -> tuple[str, float]:
    """The output that differs most, and by how much; names in `expected` alone count as infinitely far."""
    differences = {
        name: relative_difference(np.asarray(got[name]), value) if name in got else float("inf")
        for name, value in expected.items()
    }
    return max(differences.items(), key=lambda pair: pair[1], default=("", 0.0))


def bits_of(outputs: Mapping[str, Array]) -> dict[str, Array]:
    """Arrays as bytes, so that comparing them finds every difference, that of two zeros and of two NaN too."""
    return {name: np.ascontiguousarray(value).reshape(-1).view(np.uint8) for name, value in outputs.items()}
