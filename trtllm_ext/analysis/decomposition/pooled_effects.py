"""What each part of the stream adds to an encoder's pooled vector, and to its inner product with a direction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from trtllm_ext.analysis.decomposition.following import Followed
from trtllm_ext.analysis.decomposition.rounding import ROUNDOFF
from trtllm_ext.analysis.running.parts import POOLER, Summand
from trtllm_ext.analysis.running.running import StreamRun, sentence_rows
from trtllm_ext.errors import AnalysisError, ConfigError

Array = np.ndarray[Any, Any]

# Roundings of the pooled vector's sums, quotients and product, as for norms.
_OF_POOLING = 64.0


class PooledParts:
    """Collects the parts of each sentence's pooled vector; a visitor of `decompose`.

    mean and cls are linear in the tokens. The pooler's dense layer is too; its tanh(z) is taken as z times tanh(z) / z,
    and normalisation as division by the whole vector's length, both fixed at their values for the whole: so the
    parts add up to the vector itself, and are no derivative of it.
    """

    def __init__(self, run: StreamRun, parts: tuple[Summand, ...], weights: Mapping[str, Array]) -> None:
        pooling = run.config.contract.pooling
        if pooling is None or pooling.kind == "none":
            raise ConfigError(
                "this model has no pooled vector (pooling 'none'): there is no direction in it to have an effect on."
            )
        self._run, self._weights, self._pooling = run, weights, pooling
        self.names = [part.name for part in parts]
        self._vectors = np.zeros((len(parts), len(run.starts) - 1, run.config.hidden_size))

    def __call__(self, chunk: Followed) -> None:
        for sentence, rows in enumerate(sentence_rows(self._run)):
            start, stop = max(rows.start, chunk.rows.start), min(rows.stop, chunk.rows.stop)
            if self._pooling.kind != "mean":
                stop = min(stop, rows.start + 1)
            if start >= stop:
                continue
            own = chunk.output_vectors[:, start - chunk.rows.start : stop - chunk.rows.start]
            count = rows.stop - rows.start if self._pooling.kind == "mean" else 1
            self._vectors[:, sentence] += own.sum(1) / count

    def vectors(self) -> tuple[list[str], Array]:
        """Names of parts and their vectors, float64 [parts, sentences, hidden], which add up to the pooled vectors.

        Raises AnalysisError where they do not, within 64 u of the lengths of all, u being the coarser of float32's and
        the model's unit roundoff.
        """
        names, vectors = list(self.names), self._vectors
        if self._pooling.kind == "pooler":
            weight = self._weights[f"{POOLER}.weight"].astype(np.float64)
            bias = self._weights[f"{POOLER}.bias"].astype(np.float64)
            vectors = vectors @ weight.T
            names.append(f"{POOLER}.bias")
            vectors = np.concatenate([vectors, np.broadcast_to(bias, vectors[:1].shape)])
            whole = vectors.sum(0)
            vectors = vectors * np.divide(np.tanh(whole), whole, out=np.ones_like(whole), where=whole != 0)
        if self._pooling.normalize:
            vectors = vectors / np.maximum(np.linalg.norm(vectors.sum(0), axis=-1, keepdims=True), 1e-12)
        self._check(vectors)
        return names, vectors

    def _check(self, vectors: Array) -> None:
        measured = self._run.pooled
        if measured is None:
            return
        away = np.linalg.norm(vectors.sum(0) - measured, axis=-1)
        roundoff = max(ROUNDOFF["float32"], ROUNDOFF[self._run.config.dtype])
        allowed = _OF_POOLING * roundoff * np.linalg.norm(vectors, axis=-1).sum(0)
        if (away > allowed).any():
            sentence = int(np.argmax(away / allowed))
            raise AnalysisError(
                f"the parts do not add up to the pooled vector: in sentence {sentence + 1} their sum is "
                f"{away[sentence]:.3g} away, and rounding explains {allowed[sentence]:.3g}. The weights may be those "
                "of another model; give the checkpoint that the engine was built from."
            )


def direction_effects(vectors: Array, directions: Array) -> Array:
    """float64 [parts, sentences, directions]: inner products, which add up over the parts to the pooled vector's.

    directions: [directions, hidden]; taken as they are. Raises ConfigError for another hidden size, NaN and infinity.
    """
    if directions.ndim != 2 or directions.shape[1] != vectors.shape[-1]:
        raise ConfigError(
            f"the directions have shape {directions.shape}; expected [directions, {vectors.shape[-1]}], the model's "
            "hidden size."
        )
    if directions.dtype.kind not in "fiu" or not np.isfinite(directions).all():
        raise ConfigError(
            f"the directions are {directions.dtype}, or hold NaN or infinity; expected finite numbers."
        )
    return np.asarray(vectors @ directions.astype(np.float64).T)
