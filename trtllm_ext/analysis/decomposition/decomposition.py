"""What each part adds to the residual stream: its length, its share, its direction, token by token."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trtllm_ext.analysis.decomposition.following import Followed, follow
from trtllm_ext.analysis.progress import Progress, silent
from trtllm_ext.analysis.running.parts import ROUNDING, Summand, parts_of
from trtllm_ext.analysis.running.running import StreamRun

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Joining:
    """Each sublayer at the place where it joins, float64 [sublayers, tokens].

    names: in the order of execution. norm: the contribution's length. before_norm, after_norm: the stream's.
    share: <contribution, stream after> / |stream after|^2, of which what was in the stream before has the rest.
    cosine_before, cosine_after: of the contribution with the stream; NaN where one of them is zero.
    Where there are several streams (hyper-connections), the stream is their sum, and the contribution is what the
    sublayer gives to all of them.
    """

    names: tuple[str, ...]
    norm: Array
    before_norm: Array
    after_norm: Array
    share: Array
    cosine_before: Array
    cosine_after: Array


@dataclass(frozen=True)
class Decomposition:
    """The stream's end as the sum of its parts, each carried there, float64 [parts, tokens].

    norm: a part's length. share: <part, stream> / |stream|^2; the shares of a token add up to 1. cosine: with the
    stream. The stream is the one before the final norm.
    stream_norm: [tokens]. rounding: the largest length of what was rounded, over that of the stream.
    share_of_bound: the largest rounding of one step as a share of what its type allows, and that step.
    """

    run: StreamRun
    parts: tuple[Summand, ...]
    joining: Joining
    norm: Array
    share: Array
    cosine: Array
    stream_norm: Array
    rounding: float
    share_of_bound: float
    widest_step: str

    @property
    def part_names(self) -> list[str]:
        return [part.name for part in self.parts]


def decompose(
    run: StreamRun,
    weights: Mapping[str, Array] | None = None,
    *,
    embeddings: Iterable[str] = (),
    visitors: Sequence[Callable[[Followed], None]] = (),
    progress: Progress | None = None,
) -> Decomposition:
    """Follow every part to the stream's end, and measure it there and where it joined.

    weights: the model's, by their checkpoint names; see `parts.needs_weights`. Without them biases stay within the
        sublayers that add them.
    embeddings: inputs of the run that hidden_states is told to be the sum of; parts of their own.
    visitors: called with each chunk of tokens, for what else is to be made of the carried parts.
    Raises AnalysisError where the parts do not add up to the stream within rounding, ConfigError for want of weights.
    """
    tell = progress or silent
    parts = parts_of(run.config, weights, embeddings)
    size = (len(parts), run.num_tokens)
    norm, share, cosine = (np.empty(size) for _ in range(3))
    stream_norm = np.empty(run.num_tokens)
    worst, step, rounding = 0.0, "", 0.0
    tell("following the parts", 0, run.num_tokens)
    for chunk in follow(run, weights, parts):
        rows = chunk.rows
        length = np.linalg.norm(chunk.stream, axis=-1)
        inner = np.einsum("ptd,td->pt", chunk.vectors, chunk.stream)
        norm[:, rows] = np.linalg.norm(chunk.vectors, axis=-1)
        share[:, rows], cosine[:, rows] = _over(inner, length**2), _over(inner, length * norm[:, rows])
        stream_norm[rows] = length
        rounding = max(rounding, float(np.nanmax(_over(norm[-1, rows], length), initial=0.0)))
        worst, step = max((worst, step), (chunk.share_of_bound, chunk.widest_step))
        for visit in visitors:
            visit(chunk)
        tell("following the parts", rows.stop, run.num_tokens)
    assert parts[-1].name == ROUNDING
    return Decomposition(run, parts, joining_of(run), norm, share, cosine, stream_norm, rounding, worst, step)


def joining_of(run: StreamRun) -> Joining:
    """Every sublayer's contribution beside the stream that it joins."""
    rows: dict[str, list[Array]] = {name: [] for name in Joining.__annotations__ if name != "names"}
    for part in run.parts:
        before, after = _one_stream(run.before[part.name]), _one_stream(run.after[part.name])
        added = run.contribution[part.name].astype(np.float64)
        lengths = [np.linalg.norm(each, axis=-1) for each in (added, before, after)]
        for name, length in zip(("norm", "before_norm", "after_norm"), lengths, strict=True):
            rows[name].append(length)
        inner_before, inner_after = (np.einsum("td,td->t", added, each) for each in (before, after))
        rows["share"].append(_over(inner_after, lengths[2] ** 2))
        rows["cosine_before"].append(_over(inner_before, lengths[0] * lengths[1]))
        rows["cosine_after"].append(_over(inner_after, lengths[0] * lengths[2]))
    return Joining(
        tuple(part.name for part in run.parts), **{name: np.stack(values) for name, values in rows.items()}
    )


def _one_stream(values: Array) -> Array:
    wide = values.astype(np.float64)
    return wide.sum(1) if wide.ndim == 3 else wide


def _over(values: Array, by: Array) -> Array:
    """values / by, NaN where `by` is zero."""
    return np.divide(
        values, by, out=np.full(np.broadcast_shapes(values.shape, by.shape), np.nan), where=by != 0
    )
