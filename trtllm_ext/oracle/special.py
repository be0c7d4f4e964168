"""Special functions that numpy lacks, to float64 accuracy."""

from __future__ import annotations

import math

import numpy as np

from trtllm_ext.oracle.values import Array

# math.erf is the C library's: within one unit in the last place of float64.
_erf = np.frompyfunc(math.erf, 1, 1)


def erf(x: Array) -> Array:
    """Gauss error function, 2/sqrt(pi) times the integral of exp(-t^2) from 0 to x. float64 in, float64 out."""
    return np.asarray(_erf(x), np.float64)


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), without overflow for large |x|."""
    small = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1.0, small) / (1.0 + small))


def softplus(x: Array) -> Array:
    """log(1 + exp(x)), without overflow for large x."""
    return np.asarray(np.logaddexp(0.0, x))
