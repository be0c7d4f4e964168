"""All of the stream's bandwidth that a model and some input show: spectra, who fills them, what the writers reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from trtllm_ext.analysis.bandwidth.filling import Filling, fillings
from trtllm_ext.analysis.bandwidth.spectrum import PointSpectrum, groups, point_behind, spectra, stream_points
from trtllm_ext.analysis.bandwidth.writer_spectra import WriterSpectrum, writer_spectra
from trtllm_ext.analysis.progress import Progress
from trtllm_ext.analysis.running.stream_pieces import StreamPieces
from trtllm_ext.analysis.stream_map.stream_map import StreamMap
from trtllm_ext.errors import ConfigError

# Second moments that are held at a time; what is beyond waits for another pass over the input.
MOMENTS_BYTES = 300 << 20


@dataclass(frozen=True)
class Bandwidth:
    """points, fillings: one each a point, in order; empty without input, or without what it takes to follow parts.

    writers: of every part that writes; empty without a model's weights. hidden_size: of the stream.
    """

    hidden_size: int
    points: tuple[PointSpectrum, ...]
    fillings: tuple[Filling, ...]
    writers: tuple[WriterSpectrum, ...]

    @property
    def num_tokens(self) -> int:
        return self.points[0].num_tokens if self.points else 0


def bandwidth(
    pieces: StreamPieces | None,
    stream_map: StreamMap | None,
    weights: Mapping[str, npt.NDArray[Any]] | None,
    progress: Progress | None = None,
    *,
    moments_bytes: int = MOMENTS_BYTES,
) -> Bandwidth:
    """Of input through an engine (`pieces`), of a model's matrices (`stream_map`), or of both together.

    weights: by checkpoint names, for following the parts; without them it is not told who fills the stream.
    Leading directions are dropped once they have been used, so that memory holds those of some points at a time.
    Raises ConfigError for neither input nor matrices, and as `spectra`, `fillings` and `writer_spectra` do.
    """
    if pieces is None:
        if stream_map is None:
            raise ConfigError("give input for an engine, or a model whose matrices are looked at.")
        return Bandwidth(stream_map.hidden_size, (), (), tuple(writer_spectra(stream_map, progress=progress)))
    config = pieces.config
    if stream_map is not None and stream_map.hidden_size != config.hidden_size:
        raise ConfigError(
            f"{stream_map.source} has a stream of {stream_map.hidden_size} dimensions, the engine one of "
            f"{config.hidden_size}. Give the checkpoint that the engine was built from."
        )
    behind = point_behind(config)
    points: list[PointSpectrum] = []
    filled: list[Filling] = []
    written: list[WriterSpectrum] = []
    for group in groups(stream_points(config), config.hidden_size, moments_bytes):
        found = list(spectra(pieces, group, progress))
        if weights is not None:
            filled += fillings(pieces, found, weights, progress)
        if stream_map is not None:
            by_point = {each.name: each.leading for each in found}
            leading = {part: (point, by_point[point]) for part, point in behind.items() if point in by_point}
            written += writer_spectra(_only(stream_map, leading), leading, progress)
        empty = np.empty((config.hidden_size, 0))
        points += [replace(each, leading=empty) for each in found]
    if stream_map is not None:
        rest = {part.name for part in stream_map.parts} - set(behind)
        written += writer_spectra(_only(stream_map, rest), None, progress)
    return Bandwidth(config.hidden_size, tuple(points), tuple(filled), tuple(written))


def _only(stream_map: StreamMap, names: Any) -> StreamMap:
    """The map of some of its parts."""
    return replace(stream_map, parts=tuple(part for part in stream_map.parts if part.name in names))
