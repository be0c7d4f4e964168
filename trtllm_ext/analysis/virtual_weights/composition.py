"""How two Gram matrices line up: of a reader R, R^T R, and of a writer W, W W^T; and what a random turn would give."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trtllm_ext.analysis.virtual_weights.gram import Array


def inner(reads: Array, written: Array) -> float:
    """||R W||_F^2 = tr(R^T R W W^T), the sum of the products of the elements."""
    return float(
        sum(
            np.einsum("ij,ij->", a, b, dtype=np.float64)
            for a, b in zip(_blocks(reads), _blocks(written), strict=True)
        )
    )


def trace(total: Array) -> float:
    return float(np.trace(total, dtype=np.float64))


def expected(reads: Array, written: Array) -> tuple[float, float]:
    """Mean and standard deviation of ||R Q W||_F^2 for Q uniform over the orthogonal matrices.

    With A = R^T R, B = W W^T and n = hidden, tr(A Q B Q^T) has the mean tr A tr B / n and the variance
    2 (n tr A^2 - (tr A)^2) (n tr B^2 - (tr B)^2) / (n^2 (n - 1) (n + 2)), by the second moments of Haar's measure
    (Collins, Sniady 2006, Integration with respect to the Haar measure on unitary, orthogonal and symplectic group).
    """
    n = len(reads)
    first, second = trace(reads), trace(written)
    spread = [n * inner(each, each) - size**2 for each, size in ((reads, first), (written, second))]
    variance = 2 * max(spread[0], 0.0) * max(spread[1], 0.0) / (n**2 * max(n - 1, 1) * (n + 2))
    return first * second / n, variance**0.5


def sampled_scores(reads: Array, written: Array, samples: int, seed: int) -> Array:
    """Scores of so many readers R Q, Q uniform over the orthogonal matrices, drawn from `seed`."""
    rng = np.random.default_rng(seed)
    sizes = trace(reads) * trace(written)
    scores = []
    for _ in range(samples):
        turn, upper = np.linalg.qr(rng.normal(size=reads.shape))
        turn *= np.sign(np.diag(upper))
        scores.append((inner((turn.T @ reads) @ turn, written) / sizes) ** 0.5 if sizes > 0 else np.nan)
    return np.array(scores)


def _blocks(values: Array) -> Iterator[Array]:
    return (values[begin : begin + 256] for begin in range(0, len(values), 256))
