"""What cosines random directions would have: the measure that cosines of a trained model are held against."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
# The density is smooth at the scale of 1/sqrt(d); beyond so many of them nothing is left in float64.
_REACH, _NODES = 40.0, 96


def random_cosine_std(size: int) -> float:
    """1/sqrt(size): of the cosine of a fixed and a uniformly drawn direction in `size` dimensions."""
    return 1.0 / math.sqrt(size)


def random_share(size: int, low: float, high: float) -> float:
    """The probability that such a cosine, in 2 or more dimensions, lies in [low, high].

    The density is (1 - t^2)^((size - 3) / 2) Gamma(size / 2) / (sqrt(pi) Gamma((size - 1) / 2)): the area of the
    sphere's zones. With t = sin(a) it is a power of cos(a), integrated by Gauss and Legendre's rule.
    """
    reach = _REACH / math.sqrt(size)
    edges = np.arcsin(np.clip([low, high], -1.0, 1.0))
    begin, end = (float(each) for each in np.clip(edges, -reach, reach))
    if end <= begin:
        return 0.0
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    pieces = np.linspace(begin, end, 1 + math.ceil((end - begin) / reach * 8))
    half = np.diff(pieces)[:, None] / 2
    angles = half * nodes + (pieces[:-1, None] + half)
    scale = math.lgamma(size / 2) - math.lgamma((size - 1) / 2) - math.log(math.pi) / 2
    log_density = scale + (size - 2) * np.log(np.maximum(np.cos(angles), 1e-300))
    return float((np.exp(log_density) * weights * half).sum())


def random_share_beyond(size: int, sigmas: float) -> float:
    """The probability that such a cosine is larger than `sigmas` of its standard deviations, with either sign."""
    bound = sigmas * random_cosine_std(size)
    return 2 * random_share(size, bound, 1.0) if bound < 1 else 0.0


def random_histogram(size: int, edges: Array) -> Array:
    """The share of random cosines in each bin of `edges` (bins + 1,)."""
    return np.array([random_share(size, a, b) for a, b in pairwise(edges)])
