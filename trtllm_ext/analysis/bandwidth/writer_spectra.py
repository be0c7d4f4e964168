"""How many directions each writer's matrices reach, and how they lie to the stream's leading ones: weights alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from trtllm_ext.analysis.bandwidth.moments import dimensions, directions, directions_for
from trtllm_ext.analysis.neurons.neurons import WriteFold
from trtllm_ext.analysis.progress import Progress, silent
from trtllm_ext.analysis.stream_map.stream_map import Norm, Part, StreamMap
from trtllm_ext.errors import CheckpointError

Array = npt.NDArray[np.float64]
# Columns of a matrix that are widened to float64 at a time.
_PIECE_BYTES = 32 << 20
# Of a matrix' energy (the sum of its squared singular values), held by its leading directions.
LEADING_SHARE = 0.9
_STEP = "what the parts write"


@dataclass(frozen=True)
class Overlap:
    """A writer's directions beside the stream's leading ones, behind the writer. stream_directions: how many those are.

    energy: the share of the writer's energy that lies in them. random_energy: of a matrix without preference.
    overlap: |U^T P|^2 / min(r, k) of the writer's r leading directions U and the stream's k, P: 1 where the smaller
        space lies in the larger one. random_overlap: of random spaces of these sizes, max(r, k) / hidden.
    """

    point: str
    stream_directions: int
    energy: float
    random_energy: float
    overlap: float
    random_overlap: float


@dataclass(frozen=True)
class WriterSpectrum:
    """The matrices of one part side by side, with norm, gate, scale and the norm of the sum folded in.

    singular_values: (hidden,), the largest first; small ones are right to 1e-8 of the largest, as they are roots of
        the Gram matrix' eigenvalues.
    effective_rank: exp of the entropy of s / sum s (Roy, Vetterli 2007). participation_ratio: of s^2.
    leading: how many directions hold LEADING_SHARE of the energy.
    """

    part: str
    kind: str
    matrices: int
    singular_values: Array
    effective_rank: float
    participation_ratio: float
    leading: int
    overlap: Overlap | None


def writer_spectra(
    stream_map: StreamMap,
    leading: Mapping[str, tuple[str, Array]] | None = None,
    progress: Progress | None = None,
) -> Iterator[WriterSpectrum]:
    """Of every part that writes. A mixture's experts, and an embedding's tables, count as one matrix side by side.

    leading: by part, the point behind it and the stream's leading directions there, (hidden, k).
    Memory: one matrix, pieces of it in float64, and four matrices (hidden, hidden).
    Raises CheckpointError for a part without one linear map to the stream, and for NaN and infinity in its weights.
    """
    tell = progress or silent
    parts = [part for part in stream_map.parts if part.writers]
    for number, part in enumerate(parts):
        if part.obstacle is not None:
            raise CheckpointError(
                f"{part.name} does not write to one stream: {part.obstacle}. Give a model whose sublayers do."
            )
        energies, vectors = directions(
            _gram(part, stream_map.hidden_size, partial(tell, _STEP, number, len(parts)))
        )
        held = directions_for(energies, LEADING_SHARE)
        overlap = None
        if leading is not None and part.name in leading:
            overlap = _overlap(*leading[part.name], energies, vectors, held)
        singular = np.sqrt(energies)
        yield WriterSpectrum(
            part=part.name,
            kind=part.kind,
            matrices=len(part.writers),
            singular_values=singular,
            effective_rank=dimensions(singular).effective_rank,
            participation_ratio=dimensions(energies).participation_ratio,
            leading=held,
            overlap=overlap,
        )
    tell(_STEP, len(parts), len(parts))


def _gram(part: Part, hidden: int, alive: Callable[[], None]) -> Array:
    """W W^T, (hidden, hidden), of all that the part writes through. alive: called with each piece of a matrix."""
    gram = np.zeros((hidden, hidden))
    after = _AfterSum(part.norm)
    for writer in part.writers:
        fold, matrix = WriteFold(writer), writer.matrix.load()
        if matrix.shape[0] != hidden:
            raise CheckpointError(f"{writer.matrix.name} has {matrix.shape[0]} rows, expected {hidden}.")
        columns = max(1, _PIECE_BYTES // (8 * hidden))
        for begin in range(0, matrix.shape[1], columns):
            alive()
            piece = after(fold(matrix[:, begin : begin + columns].T))
            gram += piece.T @ piece
        if not np.isfinite(np.trace(gram)):
            raise CheckpointError(
                f"{writer.matrix.name}: the weights, or those of the norm and gate beside them, hold NaN or infinity, "
                "which have no spectrum. Give intact weights."
            )
    return gram


class _AfterSum:
    """What the norm of the sum makes of what was added, up to sigma, a token's own."""

    def __init__(self, norm: Norm | None) -> None:
        self._centres = norm is not None and norm.contract.kind == "layer_norm"
        self._gain: Any = None if norm is None or norm.gain is None else norm.gain().astype(np.float64)

    def __call__(self, rows: Array) -> Array:
        if self._centres:
            rows = rows - rows.mean(1, keepdims=True)
        return rows if self._gain is None else rows * self._gain


def _overlap(point: str, stream: Array, energies: Array, vectors: Array, held: int) -> Overlap:
    hidden, count = stream.shape
    inside = ((stream.T @ vectors) ** 2).sum(0)
    total = energies.sum()
    return Overlap(
        point=point,
        stream_directions=count,
        energy=float(inside @ energies / total) if total > 0 else 0.0,
        random_energy=count / hidden,
        overlap=float(inside[:held].sum() / max(min(held, count), 1)),
        random_overlap=max(held, count) / hidden,
    )
