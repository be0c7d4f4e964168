"""The logit lens and direct logit attribution: what the stream, or a part of it, says about the next token.

A language model's logits are W norm(x) + b of the stream's end x. The logit lens (nostalgebraist 2020) takes the stream
after any sublayer for x. Direct logit attribution takes the parts of x one by one, the norm being linear once its
statistics are those of the whole stream (Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from trtllm_ext.analysis.decomposition.following import Followed
from trtllm_ext.analysis.decomposition.linear_maps import NormMap, norm_map
from trtllm_ext.analysis.progress import Progress, silent
from trtllm_ext.analysis.running.parts import FINAL_NORM, check_weights
from trtllm_ext.checkpoint import ModelConfig, NormContract
from trtllm_ext.errors import AnalysisError, ConfigError, InputError

Array = np.ndarray[Any, Any]

# What a chunk of the vocabulary's logits and rows may take, each.
CHUNK_BYTES = 64 << 20
# A sum of products in float64 in another order.
_IN_OTHER_ORDER = 1e-10

FINAL_NORM_BIAS = "final_norm.bias"
HEAD_BIAS = "head.bias"


@dataclass(frozen=True)
class Lens:
    """A final norm and an unembedding.

    source: for people. load: the unembedding, [vocab, hidden], from where it is stored; a new array each time.
    norm: None where there is none. gain, shift: of the norm, [hidden], float64, or None. bias: [vocab] or None.
    scale: a factor of the logits. remarks: what the model does to its logits that is left out here.
    """

    source: str
    vocab_size: int
    hidden_size: int
    load: Callable[[], Array]
    norm: NormContract | None
    gain: Array | None
    shift: Array | None
    bias: Array | None
    scale: float = 1.0
    remarks: tuple[str, ...] = ()

    def check_fits(self, hidden_size: int) -> None:
        """Raise ConfigError for a stream of another size."""
        if self.hidden_size != hidden_size:
            raise ConfigError(
                f"the lens of {self.source} reads a stream of {self.hidden_size} numbers, and this model's has "
                f"{hidden_size}. Give the model that the checkpoint was converted from."
            )

    def with_norm_of(self, config: ModelConfig, weights: Mapping[str, Array] | None) -> Lens:
        """The lens for an engine that has the final norm itself: the lens is to have none, and takes that one.

        Raises ConfigError where both have one, or the engine's weights are not known.
        """
        norm = config.contract.final_norm
        if norm is None:
            return self
        if self.norm is not None:
            raise ConfigError(
                f"the engine has a final norm of its own, and the lens of {self.source} another one. Give an .npz file "
                "with the unembedding alone: --lens FILE."
            )
        check_weights(config, weights)
        assert weights is not None
        gain = (
            weights[f"{FINAL_NORM}.weight"].astype(np.float64) + norm.weight_offset if norm.weight else None
        )
        shift = weights[f"{FINAL_NORM}.bias"].astype(np.float64) if norm.bias else None
        return replace(self, norm=norm, gain=gain, shift=shift)

    def check_ids(self, ids: Sequence[int]) -> None:
        """Raise InputError for ids that the vocabulary does not have."""
        for number in ids:
            if not 0 <= number < self.vocab_size:
                raise InputError(
                    f"the token id {number} is outside the vocabulary of {self.source}; expected 0 to "
                    f"{self.vocab_size - 1}."
                )

    def map_at(self, stream: Array) -> NormMap:
        """The final norm at these streams, float64 [tokens, hidden]."""
        if self.norm is None:
            return NormMap(np.broadcast_to(np.float64(1.0), stream.shape), None, False)
        return norm_map(self.norm, stream, self.gain, self.shift)

    def direction_rows(self, unembedding: Array, ids: Array) -> Array:
        """float64, ids' shape and hidden: rows of the unembedding, times the scale."""
        return unembedding[ids].astype(np.float64) * self.scale

    def biases(self, ids: Array) -> Array:
        """float64 of ids' shape, times the scale."""
        if self.bias is None:
            return np.zeros(ids.shape)
        return np.asarray(self.bias[ids].astype(np.float64) * self.scale)


@dataclass(frozen=True)
class TopTokens:
    """The likeliest tokens of each row: ids, logits and probabilities [rows, k], the likeliest first."""

    ids: Array
    logits: Array
    probabilities: Array


def top_tokens(
    lens: Lens,
    unembedding: Array,
    stream: Array,
    count: int,
    *,
    progress: Progress | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> TopTokens:
    """The logit lens: norm each row by its own statistics, then multiply, chunk by chunk over the vocabulary.

    unembedding: what `lens.load` gave; products are computed in its type. stream: [rows, hidden]. Memory: some chunks
    beside what is given and returned.
    """
    normed = lens.map_at(stream.astype(np.float64)).whole(stream.astype(np.float64)).astype(unembedding.dtype)
    count = min(count, lens.vocab_size)
    tell = progress or silent
    rows = np.arange(len(stream))[:, None]
    ids, best = np.zeros((len(stream), 0), np.int64), np.zeros((len(stream), 0))
    peak, total = np.full(len(stream), -np.inf), np.zeros(len(stream))
    step = max(1, chunk_bytes // (8 * max(len(stream), lens.hidden_size)))
    for start in range(0, lens.vocab_size, step):
        tell("logit lens", start, lens.vocab_size)
        chosen = np.arange(start, min(start + step, lens.vocab_size))
        products = normed @ unembedding[start : start + step].T
        logits = products.astype(np.float64) * lens.scale + lens.biases(chosen)
        higher = np.maximum(peak, logits.max(1))
        total = total * np.exp(peak - higher) + np.exp(logits - higher[:, None]).sum(1)
        peak = higher
        kept = np.argpartition(-logits, min(count, logits.shape[1]) - 1, axis=1)[:, :count]
        ids = np.concatenate([ids, chosen[kept]], 1)
        best = np.concatenate([best, logits[rows, kept]], 1)
        order = np.argsort(-best, axis=1, kind="stable")[:, :count]
        ids, best = ids[rows, order], best[rows, order]
    tell("logit lens", lens.vocab_size, lens.vocab_size)
    return TopTokens(ids, best, np.exp(best - peak[:, None]) / total[:, None])


class LogitAttribution:
    """Collects what each part adds to chosen tokens' logits; a visitor of `decompose`.

    ids: [tokens, targets], for each token of the run, whose logits; or [targets], the same for all.
    After it: `names` and `values`, float64 [parts, tokens, targets], which add up to `logits` [tokens, targets].
    """

    def __init__(
        self, lens: Lens, unembedding: Array, parts: Sequence[str], num_tokens: int, ids: Array
    ) -> None:
        self._lens, self._unembedding, self._parts = lens, unembedding, len(parts)
        biases = {FINAL_NORM_BIAS: lens.shift, HEAD_BIAS: lens.bias}
        self.names = [*parts, *(name for name, vector in biases.items() if vector is not None)]
        self.ids = np.broadcast_to(ids, (num_tokens, ids.shape[-1]))
        self.values = np.zeros((len(self.names), num_tokens, ids.shape[-1]))
        self.logits = np.zeros((num_tokens, ids.shape[-1]))

    def __call__(self, chunk: Followed) -> None:
        ids = self.ids[chunk.rows]
        directions = self._lens.direction_rows(self._unembedding, ids)
        map_ = self._lens.map_at(chunk.stream)
        carried = map_.directions(directions.swapaxes(0, 1)).swapaxes(0, 1)
        values = self.values[:, chunk.rows]
        values[: self._parts] = np.einsum("ptd,tkd->ptk", chunk.vectors, carried)
        biases = self._lens.biases(ids)
        if map_.shift is not None:
            values[self._parts] = directions @ map_.shift
        if self._lens.bias is not None:
            values[-1] = biases
        self.logits[chunk.rows] = np.einsum("td,tkd->tk", map_.whole(chunk.stream), directions) + biases
        self._check(values, chunk)

    def _check(self, values: Array, chunk: Followed) -> None:
        wrong = np.abs(values.sum(0) - self.logits[chunk.rows])
        allowed = _IN_OTHER_ORDER * (np.abs(values).sum(0) + np.abs(self.logits[chunk.rows]))
        if (wrong > allowed).any():
            token = chunk.rows.start + int(np.argmax((wrong - allowed).max(1)))
            raise AnalysisError(
                f"the parts' effects do not add up to the logits at token {token}: they are {wrong.max():.3g} away, "
                "rounding in float64 explains less. This is an error of the attribution itself; please report it."
            )


def token_ids(texts: Sequence[str], tokenizer: Any, source: str) -> list[int]:
    """The id of each text, which has to be a single token. Raises InputError naming what it is instead."""
    found = []
    for text in texts:
        coded = tokenizer.encode(text, add_special_tokens=False)
        if len(coded.ids) != 1:
            pieces = ", ".join(repr(piece) for piece in coded.tokens) or "nothing"
            raise InputError(
                f"{text!r} is {len(coded.ids)} tokens for {source} ({pieces}); expected one. A leading space makes "
                "another token in most vocabularies; --token_ids takes numbers."
            )
        unknown = getattr(tokenizer.model, "unk_token", None)
        if unknown is not None and coded.tokens[0] == unknown and text != unknown:
            raise InputError(
                f"{text!r} is not in the vocabulary of {source}. Give another token, or --token_ids."
            )
        found.append(int(coded.ids[0]))
    return found
