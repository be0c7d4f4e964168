"""The stream's spectrum from layer to layer: how many directions it fills, where it is massive, who fills it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from trtllm_ext.analysis.bandwidth.massive import Dimension, Magnitudes
from trtllm_ext.analysis.bandwidth.moments import (
    Dimensions,
    Moments,
    dimensions,
    directions,
    directions_for,
    variances,
)
from trtllm_ext.analysis.progress import Progress, silent
from trtllm_ext.analysis.running.parts import EMBEDDING
from trtllm_ext.analysis.running.running import StreamRun, is_one_sum, stream_parts
from trtllm_ext.analysis.running.stream_pieces import StreamPieces
from trtllm_ext.checkpoint import ModelConfig
from trtllm_ext.errors import ConfigError

Array = npt.NDArray[np.float64]
# Of the variance, held by the directions that are called a stream's leading ones.
LEADING_SHARE = 0.9
FINAL = "final"
_NAMED_DIMENSIONS = 8


@dataclass(frozen=True)
class PointSpectrum:
    """The stream at one point.

    name: 'transformer.layers.3.mlp.before', or 'final', behind the last sublayer (and its norm, where one follows the
    sum), before a final norm.
    centred, uncentred: eigenvalues of the covariance and of the mean of x x^T, (hidden,), the largest first.
    mean_share: of the mean squared norm, what the mean vector alone holds. norm: root of the mean squared norm.
    named: the dimensions that hold most of the norm. for_half: the fewest dimensions that hold half of its square.
    leading: (hidden, k), unit directions that hold LEADING_SHARE of the variance. mean: (hidden,).
    """

    name: str
    num_tokens: int
    centred: Array
    uncentred: Array
    mean_share: float
    norm: float
    named: tuple[Dimension, ...]
    for_half: int
    leading: Array = field(repr=False)
    mean: Array = field(repr=False)

    @property
    def centred_dimensions(self) -> Dimensions:
        return dimensions(self.centred)

    @property
    def uncentred_dimensions(self) -> Dimensions:
        return dimensions(self.uncentred)


def stream_points(config: ModelConfig) -> list[str]:
    """The points at which the stream is looked at, in order: before each sum, and behind the last.

    The last is missing where a norm follows the last sum and a final norm follows that: no tap lies between them.
    Raises ConfigError for several streams in place of one.
    """
    residual = config.contract.feed_forward.residual
    if residual.hyper_connections is not None:
        raise ConfigError(
            f"this model has {residual.hyper_connections.num_streams} residual streams, mixed anew before each "
            "sublayer (hyper_connections): there is no one stream that has a spectrum. Give a model with one stream."
        )
    beside = is_one_sum(config)
    names = [part.name for part in stream_parts(config) if not (beside and part.kind == "attention")]
    ends = residual.placement != "post" or config.contract.final_norm is None
    return [f"{name}.before" for name in names] + ([FINAL] if ends else [])


def point_behind(config: ModelConfig) -> dict[str, str]:
    """By part, the embedding too: the first of `stream_points` that it has written to."""
    points = stream_points(config)
    behind = {EMBEDDING: points[0]} if config.contract.embedding is not None else {}
    following = 0
    for part in stream_parts(config):
        if f"{part.name}.before" in points:
            following = points.index(f"{part.name}.before") + 1
        elif is_one_sum(config):
            following = points.index(f"{part.name.removesuffix('attention')}mlp.before") + 1
        if following < len(points):
            behind[part.name] = points[following]
    return behind


def stream_at(run: StreamRun, point: str) -> npt.NDArray[Any]:
    """(tokens, hidden) of one of `stream_points`."""
    if point != FINAL:
        return run.before[point.removesuffix(".before")]
    if run.config.contract.feed_forward.residual.placement != "post":
        return run.after[run.parts[-1].name]
    return run.output


def spectra(
    pieces: StreamPieces, points: Sequence[str], progress: Progress | None = None
) -> Iterator[PointSpectrum]:
    """The spectrum of some of `stream_points`, in order, in one pass over the input.

    Memory: a matrix (hidden, hidden) in float64 a point, a piece, and four such matrices for the decomposition of one.
    Raises ConfigError for fewer than two tokens, InputError for NaN and infinity in the stream.
    """
    tell = progress or silent
    moments = {point: Moments(pieces.config.hidden_size) for point in points}
    magnitudes = {point: Magnitudes(pieces.config.hidden_size) for point in points}
    for piece in pieces.passes(f"moments of {len(points)} points", progress):
        for point in points:
            stream = stream_at(piece.run, point)
            moments[point].add(stream)
            magnitudes[point].add(stream, piece.first, piece.run.tokens)
    for index, point in enumerate(points):
        tell("eigenvalues", index, len(points))
        yield _spectrum(point, moments.pop(point), magnitudes[point])
    tell("eigenvalues", len(points), len(points))


def groups(points: Sequence[str], hidden_size: int, moments_bytes: int) -> Iterator[Sequence[str]]:
    """Points whose moments are held at a time; each group is a pass over the input."""
    at_once = max(1, moments_bytes // (8 * hidden_size**2))
    return (points[begin : begin + at_once] for begin in range(0, len(points), at_once))


def _spectrum(point: str, moments: Moments, magnitudes: Magnitudes) -> PointSpectrum:
    if moments.count < 2:
        raise ConfigError(f"a spectrum takes two tokens or more, and the input has {moments.count}.")
    mean = moments.mean
    uncentred = variances(moments.second(centred=False))
    centred, vectors = directions(moments.second())
    held = directions_for(centred, LEADING_SHARE)
    square = magnitudes.norm**2
    return PointSpectrum(
        name=point,
        num_tokens=moments.count,
        centred=centred,
        uncentred=uncentred,
        mean_share=float(mean @ mean) / square if square > 0 else 0.0,
        norm=magnitudes.norm,
        named=tuple(magnitudes.named(_NAMED_DIMENSIONS)),
        for_half=directions_for(-np.sort(-magnitudes.shares), 0.5),
        leading=np.ascontiguousarray(vectors[:, :held]),
        mean=mean,
    )
