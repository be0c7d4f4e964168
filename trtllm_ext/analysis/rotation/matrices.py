"""Orthogonal matrices for the residual stream: made from a seed, or given and checked."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trtllm_ext.analysis.rotation.hadamard import hadamard, hadamard_order
from trtllm_ext.checkpoint.safetensors_file import SafetensorsFile
from trtllm_ext.errors import CheckpointError, ConfigError

Matrix = npt.NDArray[np.float64]

KINDS = ("hadamard", "orthogonal", "identity")
# Largest |Q^T Q - I| that a given matrix may have: what float32 leaves of an orthogonal matrix of several thousand
# rows. The orthogonal matrix nearest to it is taken then; one saved in a narrower type is refused.
ORTHOGONAL_LIMIT = 1e-5
# What is left of Q^T Q - I in float64.
_EXACT = 1e-13


@dataclass(frozen=True)
class Rotation:
    """matrix: orthogonal, (hidden, hidden); a row vector x becomes x @ matrix.

    description: how it was made, for people.
    keeps_mean: whether it maps the vector of ones onto itself, so that the mean over channels stays what it was.
    deviation: largest |Q^T Q - I| of a given matrix as it was given.
    """

    matrix: Matrix
    description: str
    keeps_mean: bool
    deviation: float | None = None


def make_rotation(kind: str, size: int, seed: int = 0, *, keep_mean: bool = False) -> Rotation:
    """A rotation of `size` channels, the same for the same arguments.

    hadamard: random signs, then a Hadamard matrix over sqrt(size) (QuaRot: Ashkboos et al. 2024, arXiv 2404.00456,
        section 3); where none of that order is known, its Kronecker product with a random orthogonal block, said so.
    orthogonal: uniform over all orthogonal matrices (Mezzadri 2007, arXiv math-ph/0609050, section 5).
    identity: none, for folding norms alone.
    keep_mean: Q 1 = 1. With a Hadamard matrix H whose first column is 1 that is H P H^T / size, P a random permutation
        with random signs that leaves the first place alone; else a random orthogonal matrix of size - 1 on the
        complement of the mean direction.
    Raises ConfigError for another kind, and for a negative seed.
    """
    if seed < 0:
        raise ConfigError(f"seed={seed} is negative; give a whole number from 0 on.")
    random = np.random.default_rng(seed)
    match kind:
        case "identity":
            return Rotation(np.eye(size), "identity", keeps_mean=True)
        case "orthogonal" if keep_mean:
            return _keeping_mean(size, random, f"random orthogonal, seed {seed}")
        case "orthogonal":
            return Rotation(
                _orthogonal(size, random), f"random orthogonal {size}, seed {seed}", keeps_mean=False
            )
        case "hadamard":
            return _hadamard(size, random, seed, keep_mean)
    raise ConfigError(
        f"rotation={kind!r} is not known; give {', '.join(KINDS)}, or a file (.npy, .npz or .safetensors)."
    )


def read_rotation(path: str | os.PathLike[str], size: int, *, keep_mean: bool = False) -> Rotation:
    """A rotation from a .npy, .npz or .safetensors file that holds one matrix of (size, size) float32 or float64.

    One that is orthogonal within ORTHOGONAL_LIMIT is replaced by the orthogonal matrix nearest to it, in float64.
    keep_mean: it must map the vector of ones onto itself, within the same limit.
    Raises ConfigError for another shape or type, for a matrix that is not orthogonal, telling how far it is, and for
    one that moves the mean direction where it must not; CheckpointError for a file that cannot be read.
    """
    given = _read_matrix(Path(path))
    if given.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise ConfigError(
            f"{path} holds {given.dtype.name} values; save the rotation as float64 or float32, narrower types do not "
            "keep it orthogonal."
        )
    if given.shape != (size, size):
        raise ConfigError(
            f"{path} holds a matrix of shape {given.shape}; the stream has {size} channels, so it must be "
            f"({size}, {size})."
        )
    matrix = given.astype(np.float64)
    if not np.isfinite(matrix).all():
        raise ConfigError(f"{path} holds NaN or infinity; a rotation is an orthogonal matrix.")
    deviation = _deviation(_gram_less_identity(matrix))
    if deviation > ORTHOGONAL_LIMIT:
        raise ConfigError(
            f"{path} is not orthogonal: the largest element of |Q^T Q - I| is {deviation:.3g}, the limit is "
            f"{ORTHOGONAL_LIMIT:g}. Give the Q of a QR decomposition, in float64."
        )
    moved = float(np.abs(matrix.sum(1) - 1).max())
    keeps_mean = moved <= ORTHOGONAL_LIMIT
    if keep_mean and not keeps_mean:
        raise ConfigError(
            f"{path} moves the mean direction: the sums of its rows differ from 1 by up to {moved:.3g}, the limit is "
            f"{ORTHOGONAL_LIMIT:g}. A LayerNorm that stays one needs Q 1 = 1: take '--rotation hadamard', or have the "
            "norms folded with '--layer_norm fold' where that is possible."
        )
    if keep_mean:
        matrix = matrix - matrix.mean(0) - matrix.mean(1)[:, None] + matrix.mean() + 1 / size
    return Rotation(_nearest(matrix), f"{Path(path).name}", keeps_mean, deviation)


def _hadamard(size: int, random: np.random.Generator, seed: int, keep_mean: bool) -> Rotation:
    parts = hadamard_order(size)
    order = parts.order
    ways = f"{parts.sylvester} (Sylvester) x {parts.paley} (Paley)" if parts.paley > 1 else "Sylvester"
    if keep_mean:
        if parts.rest > 1:
            reason = f"random orthogonal, seed {seed}, since no Hadamard matrix of order {size} is known"
            return _keeping_mean(size, random, reason)
        matrix = hadamard(size)
        moved = 1 + random.permutation(size - 1)
        signed = np.concatenate([matrix[:, :1], matrix[:, moved] * _signs(size - 1, random)], axis=1)
        text = f"H P H^T of a Hadamard matrix of order {size} = {ways}, seed {seed}, Q 1 = 1"
        return Rotation(matrix @ signed.T / size, text, keeps_mean=True)
    matrix = hadamard(order)
    matrix /= np.sqrt(order)
    text = f"random Hadamard {order} = {ways}" if order > 1 else ""
    if parts.rest > 1:
        matrix = np.asarray(np.kron(matrix, _orthogonal(parts.rest, random)), np.float64)
        text = " x ".join(
            filter(None, [text, f"random orthogonal {parts.rest}, no Hadamard matrix being known"])
        )
    matrix *= _signs(size, random)[:, None]
    return Rotation(matrix, f"{text}, seed {seed}", keeps_mean=False)


def _keeping_mean(size: int, random: np.random.Generator, how: str) -> Rotation:
    """A random orthogonal matrix on the complement of the mean, between two reflections that swap it with e_0."""
    matrix = np.zeros((size, size))
    matrix[0, 0] = 1
    if size > 1:
        matrix[1:, 1:] = _orthogonal(size - 1, random)
        mirror = np.full(size, -1 / np.sqrt(size))
        mirror[0] += 1
        mirror /= np.linalg.norm(mirror)
        matrix -= 2 * np.outer(mirror, mirror @ matrix)
        matrix -= 2 * np.outer(matrix @ mirror, mirror)
    return Rotation(matrix, f"{how}, Q 1 = 1", keeps_mean=True)


def _orthogonal(size: int, random: np.random.Generator) -> Matrix:
    q, r = np.linalg.qr(random.standard_normal((size, size)))
    return np.asarray(q * np.where(np.diag(r) < 0, -1.0, 1.0))


def _signs(count: int, random: np.random.Generator) -> Matrix:
    return random.choice([-1.0, 1.0], size=count)


def _deviation(difference: Matrix) -> float:
    """Largest magnitude, without another matrix."""
    return float(max(difference.max(), -difference.min()))


def _gram_less_identity(matrix: Matrix) -> Matrix:
    """Q^T Q - I."""
    product = np.asarray(matrix.T @ matrix)
    product[np.diag_indices_from(product)] -= 1
    return product


def _nearest(matrix: Matrix) -> Matrix:
    """The orthogonal factor of the polar decomposition, by Newton-Schulz steps (Higham 2008, section 8.3)."""
    for _ in range(10):
        step = _gram_less_identity(matrix)
        if _deviation(step) <= _EXACT:
            break
        step *= -0.5
        step[np.diag_indices_from(step)] += 1
        matrix = matrix @ step
    return matrix


def _read_matrix(path: Path) -> npt.NDArray:
    if path.suffix == ".safetensors":
        file = SafetensorsFile(path)
        found = {name: file[name] for name in file}
    elif path.suffix in (".npy", ".npz"):
        found = _read_numpy(path)
    else:
        raise ConfigError(
            f"rotation={str(path)!r} is neither a kind ({', '.join(KINDS)}) nor a .npy, .npz or .safetensors file."
        )
    if "rotation" in found:  # what `stream rotate` writes has more beside it
        return found["rotation"]
    if len(found) != 1:
        raise ConfigError(
            f"{path} holds {len(found)} arrays ({', '.join(list(found)[:5])}); save one, or name it 'rotation'."
        )
    return next(iter(found.values()))


def _read_numpy(path: Path) -> dict[str, npt.NDArray]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {path.stem: loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist.") from None
    except Exception as problem:  # numpy's readers raise many kinds for damaged files
        reason = str(problem).partition("\n")[0]
        raise CheckpointError(f"{path} cannot be read as a NumPy file of plain arrays: {reason}.") from None
