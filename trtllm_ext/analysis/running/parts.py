"""What the residual stream is the sum of: embeddings, sublayers, and biases wherever they can be told apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from trtllm_ext.analysis.running.running import StreamPart, stream_parts
from trtllm_ext.checkpoint import ModelConfig, ResidualContract
from trtllm_ext.checkpoint.weights import ATTENTION_NORMS, feed_forward_norm_names
from trtllm_ext.errors import ConfigError

Array = np.ndarray[Any, Any]
Weights = Mapping[str, Array]
PartKind = Literal["embedding", "attention", "mlp", "bias", "rounding"]

EMBEDDING = "transformer.embedding"
FINAL_NORM = "transformer.ln_f"
POOLER = "transformer.pooler.dense"
ROUNDING = "rounding"
_TABLES = {"vocab": "input_ids", "position": "positions", "token": "token_type_ids"}
_OUTPUT_BIAS = {"attention": "dense.bias", "mlp": "proj.bias"}


@dataclass(frozen=True)
class Summand:
    """One summand of the stream. name: of a sublayer, a table or a bias; layer: None outside the layers.

    'rounding' is what the engine's sums and norms were rounded by, carried on like any other part.
    """

    name: str
    layer: int | None
    kind: PartKind


def parts_of(
    config: ModelConfig, weights: Weights | None, embeddings: Iterable[str] = ()
) -> tuple[Summand, ...]:
    """All parts, in the order in which they join. Without weights, biases stay within what they are added to.

    embeddings: parts that hidden_states is told to have, among a run's inputs.
    """
    parts = [Summand(name, None, "embedding") for name in (*embeddings, *embedding_tables(config))]
    if config.contract.embedding is not None and (name := norm_bias(f"{EMBEDDING}.embedding_ln", weights)):
        parts.append(Summand(name, None, "bias"))
    for part in stream_parts(config):
        parts.append(Summand(part.name, part.layer, part.kind))
        names = [output_bias(config, part, weights), after_norm_bias(config, part, weights)]
        parts += [Summand(name, part.layer, "bias") for name in names if name]
    if config.contract.final_norm is not None and (name := norm_bias(FINAL_NORM, weights)):
        parts.append(Summand(name, None, "bias"))
    return (*parts, Summand(ROUNDING, None, "rounding"))


def embedding_tables(config: ModelConfig) -> dict[str, str]:
    """What the stream begins with: the parts' names, with the inputs that choose their rows, or are they."""
    embedding = config.contract.embedding
    if embedding is None:
        return {"hidden_states": "hidden_states"}
    kept = [kind for kind in _TABLES if kind != "token" or embedding.token_type]
    return {f"{EMBEDDING}.{kind}_embedding": _TABLES[kind] for kind in kept}


def needs_weights(config: ModelConfig) -> bool:
    """Whether parts cannot be followed by the taps alone: norms of the stream, mixed streams, tables."""
    contract = config.contract
    forms = [contract.feed_forward.residual]
    if contract.attention is not None:
        forms.append(contract.attention.residual)
    return (
        contract.embedding is not None
        or contract.final_norm is not None
        or any(form.placement == "post" or form.hyper_connections is not None for form in forms)
    )


def check_weights(config: ModelConfig, weights: Weights | None, source: str = "the engine") -> None:
    """Raise ConfigError where the parts cannot be followed for want of weights."""
    if weights is None and needs_weights(config):
        raise ConfigError(
            f"the parts of this model's stream pass norms, tables or mixing matrices, and {source} does not give its "
            "weights back. Give the checkpoint that it was built from."
        )


def residual_of(config: ModelConfig, part: StreamPart) -> ResidualContract:
    """How the part joins the stream; a given contribution joins as it is."""
    contract = config.contract
    if part.kind == "mlp":
        return contract.feed_forward.residual
    if contract.attention is not None:
        return contract.attention.residual
    form = contract.feed_forward.residual
    return ResidualContract(placement="none", norm=None, post_norm=None, stream_dtype=form.stream_dtype)


def norm_names(config: ModelConfig, part: StreamPart) -> tuple[str, str]:
    """The names (norm, post_norm) of the block's norms, as its weights have them."""
    names = (
        ATTENTION_NORMS if part.kind == "attention" else feed_forward_norm_names(residual_of(config, part))
    )
    layer = part.name.rpartition(".")[0]
    return f"{layer}.{names[0]}", f"{layer}.{names[1]}"


def norm_bias(name: str, weights: Weights | None) -> str | None:
    """The name of a norm's bias, where it has one."""
    return f"{name}.bias" if weights is not None and f"{name}.bias" in weights else None


def after_norm_bias(config: ModelConfig, part: StreamPart, weights: Weights | None) -> str | None:
    """The bias of the norm of the stream that follows the sum (placement 'post')."""
    if residual_of(config, part).placement != "post":
        return None
    return norm_bias(norm_names(config, part)[0], weights)


def output_bias(config: ModelConfig, part: StreamPart, weights: Weights | None) -> str | None:
    """A bias that reaches the stream as it is, but for scale and gate.

    The sublayer's last one, or that of the norm behind it. Experts' biases are weighted by the router, and one before a
    norm on the branch is divided by what only the branch knows, so these stay with their sublayer.
    """
    contract, residual = config.contract, residual_of(config, part)
    if part.kind == "attention" and contract.attention is None:
        return None
    norm, post_norm = norm_names(config, part)
    match residual.placement:
        case "branch":
            return norm_bias(norm, weights)
        case "sandwich":
            return norm_bias(post_norm, weights)
    name = f"{part.name}.{_OUTPUT_BIAS[part.kind]}"
    has = weights is not None and name in weights and weights[name].ndim == 1
    return name if has else None


def bias_vector(config: ModelConfig, part: StreamPart, weights: Weights, name: str) -> Array:
    """float64 [hidden]: what the bias `output_bias` names adds, after scale and gate."""
    residual = residual_of(config, part)
    vector = weights[name].astype(np.float64) * residual.scale
    if residual.gate == "none":
        return vector
    gate = weights[f"{part.name}_scale.weight"].astype(np.float64)
    return vector * (np.tanh(gate) if residual.gate == "tanh" else gate)
