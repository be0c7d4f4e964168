"""A decomposition with what it says of the model's output: the pooled vector, or the next token."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from trtllm_ext.analysis.decomposition.decomposition import Decomposition, decompose
from trtllm_ext.analysis.decomposition.lens import Lens, LogitAttribution, TopTokens, top_tokens
from trtllm_ext.analysis.decomposition.linear_maps import norm_map_of
from trtllm_ext.analysis.decomposition.pooled_effects import PooledParts, direction_effects
from trtllm_ext.analysis.decomposition.showing import show_decomposition, show_pooled
from trtllm_ext.analysis.decomposition.showing_lens import Texts, lens_points, show_attribution, show_lens
from trtllm_ext.analysis.progress import Progress
from trtllm_ext.analysis.report import Report
from trtllm_ext.analysis.running.parts import check_weights, norm_names, parts_of, residual_of
from trtllm_ext.analysis.running.running import StreamRun, check_taps, labelled, needed_taps, stream_of
from trtllm_ext.checkpoint import ModelConfig
from trtllm_ext.checkpoint.dtypes import all_finite
from trtllm_ext.errors import CheckpointError, ConfigError, InputError

Array = np.ndarray[Any, Any]


# What the taps of a run may take, in float32; every token's are there at once.
MOST_BYTES = 2 << 30


@dataclass(frozen=True)
class Questions:
    """What is asked of the output.

    lens: of a language model. targets: token ids whose logits are taken apart; none: each row's likeliest next token.
    top: how many tokens the logit lens tells. directions: [directions, hidden] for the pooled vector; None for the
    sentences' own unit vectors.
    """

    lens: Lens | None = None
    targets: tuple[int, ...] = ()
    top: int = 5
    directions: Array | None = None

    def check(self, config: ModelConfig) -> None:
        """Raise ConfigError and InputError for what does not fit the model, before anything runs."""
        if self.lens is not None:
            self.lens.check_fits(config.hidden_size)
            self.lens.check_ids(self.targets)
        elif self.targets:
            raise ConfigError(
                "tokens are chosen, but nothing says what their directions are. Give --model_dir with the language "
                "model, or --lens."
            )
        if self.top < 1:
            raise ConfigError(f"top_k={self.top} is less than one token; give 1 or more.")
        if self.directions is None:
            return
        if not _has_pooled(config):
            raise ConfigError("directions are for the pooled vector of an encoder, and this model has none.")
        direction_effects(np.zeros((1, 1, config.hidden_size)), self.directions)


@dataclass(frozen=True)
class Examined:
    """result: the decomposition. pooled: names of parts and effects [parts, sentences, directions]. top: the logit
    lens by point. attribution: of the targets, or of the likeliest tokens. lens: as it was used."""

    result: Decomposition
    own_directions: bool
    pooled: tuple[list[str], Array] | None = None
    lens: Lens | None = None
    top: Mapping[str, TopTokens] | None = None
    attribution: LogitAttribution | None = None
    targets: tuple[int, ...] = ()

    def show(self, report: Report, texts: Texts = str) -> None:
        """Add its sections. texts: of token ids."""
        run = self.result.run
        show_decomposition(report, self.result)
        if self.pooled is not None:
            pooling = run.config.contract.pooling
            assert pooling is not None
            show_pooled(report, *self.pooled, is_own=self.own_directions, kind=pooling.kind)
        if self.lens is not None and self.top is not None and self.attribution is not None:
            show_lens(report, run, self.lens, dict(self.top), texts)
            titles = [repr(texts(each)) for each in self.targets] or ["the likeliest next token"]
            show_attribution(report, run, self.attribution, titles)


def examine(
    engine_dir: str | os.PathLike[str],
    weights: Mapping[str, Array] | None,
    inputs: Mapping[str, Array] | None = None,
    *,
    sentences: Sequence[str] | None = None,
    tokenizer: str | None = None,
    questions: Questions | None = None,
    labels: Sequence[str] | None = None,
    embeddings: Mapping[str, Array] | None = None,
    progress: Progress | None = None,
) -> Examined:
    """Run an engine with taps, decompose its stream, and answer the questions.

    inputs, sentences, tokenizer: as for `stream_of`. labels: of the tokens, where the input does not tell them.
    embeddings: what hidden_states is the sum of, [tokens, hidden] by name, as `stream capture` writes it.
    Raises what `stream_of` and `decompose` raise; questions that do not fit the model are refused first.
    """
    asked = questions or Questions()
    config = check_taps(engine_dir)
    asked.check(config)
    check_fits_memory(config, inputs)
    lens = None if asked.lens is None else asked.lens.with_norm_of(config, weights)
    run = stream_of(engine_dir, inputs, sentences=sentences, tokenizer=tokenizer, progress=progress)
    run = _with_embeddings(labelled(run, labels), embeddings or {})
    parts = parts_of(config, weights, embeddings or ())
    visitors: list[Any] = []
    pooled = PooledParts(run, parts, weights) if _has_pooled(config) and weights is not None else None
    if pooled is not None:
        visitors.append(pooled)
    top = attribution = None
    if lens is not None:
        top, attribution = _through(lens, run, [part.name for part in parts], asked, weights, progress)
        visitors.append(attribution)
    result = decompose(run, weights, embeddings=embeddings or (), visitors=visitors, progress=progress)
    effects = None
    if pooled is not None:
        names, vectors = pooled.vectors()
        directions = _unit(vectors.sum(0)) if asked.directions is None else asked.directions
        effects = (names, direction_effects(vectors, directions))
    return Examined(result, asked.directions is None, effects, lens, top, attribution, asked.targets)


def _with_embeddings(run: StreamRun, embeddings: Mapping[str, Array]) -> StreamRun:
    shape = (run.num_tokens, run.config.hidden_size)
    for name, value in embeddings.items():
        if value.shape != shape or value.dtype.kind != "f" or name in run.inputs:
            raise InputError(
                f"the embeddings have {name!r} of shape {value.shape}, {value.dtype}; expected floats of {shape}, as "
                "the input has rows, under another name than an input's. Capture the text again."
            )
    return replace(run, inputs={**run.inputs, **embeddings})


def check_fits_memory(config: ModelConfig, inputs: Mapping[str, Array] | None) -> None:
    """Raise InputError, before anything runs, for so many tokens that their taps take more than 2 GiB."""
    if inputs is None or "hidden_states" not in inputs:
        return
    connections = config.contract.feed_forward.residual.hyper_connections
    streams = 1 if connections is None else connections.num_streams
    row = 4 * config.hidden_size * streams * len(needed_taps(config))
    tokens, most = inputs["hidden_states"].shape[0], MOST_BYTES // row
    if tokens > most:
        raise InputError(
            f"the input has {tokens} tokens, whose stream takes {tokens * row / 2**30:.1f} GiB in all layers; at most "
            f"{most} tokens of this model are decomposed at once. Give fewer."
        )


def _through(
    lens: Lens,
    run: StreamRun,
    parts: Sequence[str],
    asked: Questions,
    weights: Mapping[str, Array] | None,
    progress: Progress | None,
) -> tuple[dict[str, TopTokens], LogitAttribution]:
    """The logit lens at every point, and what collects the attribution: one unembedding is in memory for both."""
    unembedding = lens.load()
    if not all_finite(unembedding):
        raise CheckpointError(
            f"the unembedding of {lens.source} holds NaN or infinity, and so would the logits. Give intact weights."
        )
    points = lens_points(run, stream_end(run, weights))
    top = {
        name: top_tokens(lens, unembedding, stream, asked.top, progress=progress)
        for name, stream in points.items()
    }
    last = list(top.values())[-1]
    ids = np.array([asked.targets]) if asked.targets else last.ids[:, :1]
    return top, LogitAttribution(lens, unembedding, parts, run.num_tokens, ids)


def stream_end(run: StreamRun, weights: Mapping[str, Array] | None) -> Array:
    """The stream after the last sublayer and a norm of that sum, before the final norm: [tokens, hidden]."""
    config, last = run.config, run.parts[-1]
    if config.contract.final_norm is None:
        return run.output
    after = run.after[last.name].astype(np.float64)
    after = after.sum(1) if after.ndim == 3 else after
    form = residual_of(config, last)
    if form.placement != "post" or form.norm is None:
        return after
    check_weights(config, weights)
    return norm_map_of(form.norm, after, weights or {}, norm_names(config, last)[0]).whole(after)


def _has_pooled(config: ModelConfig) -> bool:
    pooling = config.contract.pooling
    return pooling is not None and pooling.kind != "none"


def _unit(vectors: Array) -> Array:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
