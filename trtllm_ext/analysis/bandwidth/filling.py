"""Who fills the stream: how much of its variance, in its leading directions, each part brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trtllm_ext.analysis.bandwidth.spectrum import PointSpectrum, point_behind, stream_at
from trtllm_ext.analysis.decomposition.following import follow
from trtllm_ext.analysis.progress import Progress
from trtllm_ext.analysis.running.parts import Summand, parts_of
from trtllm_ext.analysis.running.stream_pieces import StreamPieces
from trtllm_ext.errors import AnalysisError

Array = npt.NDArray[np.float64]
# By how much the shares' sum may leave 1: they are sums over tokens in float64.
_SUM_BOUND = 1e-8
# What the parts of a chunk of tokens may take: little, so that a processor's caches hold most of it.
_CHUNK_BYTES = 24 << 20
BIASES = "biases"
_STEP = "who fills the stream"


@dataclass(frozen=True)
class Filling:
    """Shares of the stream's variance at one point, within its leading directions.

    share: by writer, Cov(part, stream) over Var(stream), both within the leading directions P: tr(P^T Cov(c, x) P) over
        tr(P^T Cov(x) P). They add up to 1; one that is negative takes out what others have brought. All biases of
        norms and matrices are one writer, 'biases'; what the engine's sums were rounded by is 'rounding'.
    own: by sublayers that joined just before this point, the share of their own variance within P.
    random_own: what a part without preference would have there, directions over hidden.
    """

    point: str
    share: dict[str, float]
    own: dict[str, float]
    random_own: float


class _Sums:
    """Over tokens, of one point."""

    def __init__(self, spectrum: PointSpectrum, parts: Sequence[Summand], newest: Sequence[int]) -> None:
        self.spectrum, self.newest = spectrum, list(newest)
        self.inner: Array = np.zeros(len(parts))
        self.variance = 0.0
        self.count = 0
        hidden, directions = spectrum.leading.shape
        self.squares = np.zeros((2, len(self.newest)))
        self.means = np.zeros((len(self.newest), hidden))
        self.inside_means = np.zeros((len(self.newest), directions))

    def add(self, stream: npt.NDArray[Any], vectors: Array) -> None:
        """stream: (tokens, hidden). vectors: (parts, tokens, hidden), which add up to it."""
        leading = self.spectrum.leading
        inside = (stream.astype(np.float64) - self.spectrum.mean) @ leading
        self.variance += float((inside**2).sum())
        self.inner += vectors.reshape(len(vectors), -1) @ (inside @ leading.T).ravel()
        self.count += len(stream)
        for place, index in enumerate(self.newest):
            own = vectors[index]
            projected = own @ leading
            self.squares[:, place] += ((own**2).sum(), (projected**2).sum())
            self.means[place] += own.sum(0)
            self.inside_means[place] += projected.sum(0)

    def filling(self, parts: Sequence[Summand]) -> Filling:
        size = self.variance if self.variance > 0 else 1.0
        share: dict[str, float] = {}
        for part, inner in zip(parts, self.inner, strict=True):
            name = BIASES if part.kind == "bias" else part.name
            share[name] = share.get(name, 0.0) + float(inner) / size
        if self.variance > 0 and abs(sum(share.values()) - 1) > _SUM_BOUND * (
            1 + np.abs(self.inner).sum() / size
        ):
            raise AnalysisError(
                f"the parts' shares of the stream at {self.spectrum.name} add up to {sum(share.values()):.9f}, "
                "expected 1. The engine gave other numbers in this pass than in the one before; run it again, and "
                "report it if it stays."
            )
        whole, inside = self.squares
        whole = whole - (self.means**2).sum(1) / max(self.count, 1)
        inside = inside - (self.inside_means**2).sum(1) / max(self.count, 1)
        own = {
            parts[index].name: float(inside[place] / whole[place]) if whole[place] > 0 else 0.0
            for place, index in enumerate(self.newest)
        }
        hidden, directions = self.spectrum.leading.shape
        return Filling(self.spectrum.name, share, own, directions / hidden)


def fillings(
    pieces: StreamPieces,
    spectra: Sequence[PointSpectrum],
    weights: Mapping[str, npt.NDArray[Any]] | None,
    progress: Progress | None = None,
) -> list[Filling]:
    """Who fills the stream at some points, in one pass over the input; parts are carried through norms on the way.

    weights: as `follow` takes them. Memory: a piece, the parts of some of its tokens, the points' leading directions.
    Raises AnalysisError where the parts do not add up to the stream, or their shares not to 1.
    """
    parts = parts_of(pieces.config, weights)
    behind = point_behind(pieces.config)
    sums = {}
    for spectrum in spectra:
        newest = [index for index, part in enumerate(parts) if behind.get(part.name) == spectrum.name]
        sums[spectrum.name] = _Sums(spectrum, parts, newest)
    for piece in pieces.passes(_STEP, progress):
        run = piece.run

        def watch(point: str, rows: slice, vectors: Array, run: Any = run) -> None:
            if point in sums:
                sums[point].add(stream_at(run, point)[rows], vectors)

        for _ in follow(run, weights, parts, _CHUNK_BYTES, watch=watch):
            if progress is not None:  # says that it goes on: a piece takes a while
                progress(_STEP, piece.number, piece.total)
    return [each.filling(parts) for each in sums.values()]
