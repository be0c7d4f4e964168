"""The largest singular values of a product R W from the Gram matrices R^T R and W W^T alone.

(R W)^T (R W) has the eigenvalues of G_R G_W other than zero, and these are those of G_W^1/2 G_R G_W^1/2. G_R G_W is
self-adjoint in the inner product x^T G_W y, so Lanczos' iteration in it (Parlett 1980, The Symmetric Eigenvalue
Problem, chapters 13 and 15) needs one product with each Gram matrix a step and no square root.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]

# The relative change of the largest singular value in one step below which it counts as found, twice in turn.
TOLERANCE = 1e-6
MAX_STEPS = 200


@dataclass(frozen=True)
class Singular:
    """What was found.

    values: the largest singular values, in falling order. vectors: (hidden, count), x of G_R G_W x = s^2 x, with
    x^T G_W x = 1. steps: products with each Gram matrix. converged: whether the change fell below the tolerance.
    """

    values: Array
    vectors: Array
    steps: int
    converged: bool


def largest(
    reads: Array, writes: Array, count: int = 1, *, seed: int = 0, tolerance: float = TOLERANCE
) -> Singular:
    """The `count` largest singular values of R W. reads, writes: R^T R and W W^T, (hidden, hidden)."""
    hidden = len(reads)
    most = min(MAX_STEPS, hidden)
    basis: Array = np.empty((most, hidden), reads.dtype)  # orthonormal in the inner product
    images: Array = np.empty((most, hidden), reads.dtype)  # G_W times each
    small = np.zeros((most, most))
    vector = np.random.default_rng(seed).normal(size=hidden).astype(reads.dtype)
    image = writes @ vector
    before: Array = np.zeros(count)
    length, calm, steps = _length(vector, image), 0, 0
    while steps < most and length > 0:
        basis[steps], images[steps] = vector / length, image / length
        vector = reads @ images[steps]
        small[steps, steps] = images[steps] @ vector
        for _ in range(2):  # twice is enough (Kahan, in Parlett's book)
            vector -= basis[: steps + 1].T @ (images[: steps + 1] @ vector)
        image = writes @ vector
        length = _length(vector, image)
        steps += 1
        found = _roots(small[:steps, :steps])[:count]
        settled = len(found) == count and np.all(np.abs(found - before) <= tolerance * found[0])
        calm = calm + 1 if settled else 0
        if calm == 2 or length <= 10 * np.finfo(reads.dtype).eps * found[0] ** 2:
            length = 0.0
        elif steps < most:
            small[steps, steps - 1] = small[steps - 1, steps] = length
        before = found if len(found) == count else before
    if steps == 0:
        return Singular(np.zeros(count), np.zeros((hidden, count)), 1, True)
    values, inner = np.linalg.eigh(small[:steps, :steps])
    values, inner = values[::-1][:count], inner[:, ::-1][:, :count]
    converged = length == 0 or steps == hidden
    return Singular(np.sqrt(np.maximum(values, 0.0)), basis[:steps].T @ inner, steps, converged)


def _length(vector: Array, image: Array) -> float:
    return max(float(vector @ image), 0.0) ** 0.5


def _roots(small: Array) -> Array:
    """The roots of a tridiagonal matrix' eigenvalues, in falling order."""
    roots: Array = np.sqrt(np.maximum(np.linalg.eigvalsh(small)[::-1], 0.0))
    return roots
