"""The names and shapes of the weights that a config calls for.

The single list that the converter fills, the reader checks against and random checkpoints are made from.
Names are TensorRT-LLM's; matrices are (out_features, in_features); shapes are those of one rank.
"""

from __future__ import annotations

from collections.abc import Iterator

from trtllm_ext.checkpoint.config import ModelConfig
from trtllm_ext.checkpoint.contract import NormContract, ResidualContract
from trtllm_ext.errors import ConfigError

Shape = tuple[int, ...]

# (norm, post_norm) of each sublayer. A layer's first norm is `input_layernorm` and its second `post_layernorm`
# wherever it stands; only when both sides of both sublayers are normalised do four names exist.
ATTENTION_NORMS = ("input_layernorm", "post_layernorm")
FEED_FORWARD_NORMS = ("post_layernorm", "")
FEED_FORWARD_NORMS_SANDWICH = ("pre_feedforward_layernorm", "post_feedforward_layernorm")


def feed_forward_norm_names(residual: ResidualContract) -> tuple[str, str]:
    """The names (norm, post_norm) of a feed-forward sublayer's norms; '' where there is none."""
    return FEED_FORWARD_NORMS_SANDWICH if residual.placement == "sandwich" else FEED_FORWARD_NORMS


def expected_weights(config: ModelConfig) -> dict[str, Shape]:
    """Every weight of the model, in the order of the checkpoint file: name -> shape on one rank.

    Raises ConfigError when tp_size does not divide the heads or the feed-forward width.
    """
    return dict(_weights(config))


def _weights(config: ModelConfig) -> Iterator[tuple[str, Shape]]:
    contract, hidden = config.contract, config.hidden_size
    if contract.embedding is not None:
        prefix = "transformer.embedding"
        yield f"{prefix}.vocab_embedding.weight", (config.vocab_size or 0, hidden)
        yield f"{prefix}.position_embedding.weight", (config.max_position_embeddings or 0, hidden)
        if contract.embedding.token_type:
            yield f"{prefix}.token_embedding.weight", (config.type_vocab_size or 0, hidden)
        yield from _norm(f"{prefix}.embedding_ln", contract.embedding.norm, hidden)
    for i in config.mapping.pp_layers(config.num_hidden_layers):
        # Under pipeline parallelism the index counts from the rank's own first layer.
        local = i - config.mapping.pp_layers(config.num_hidden_layers)[0]
        yield from _layer(f"transformer.layers.{local}", config)
    yield from _norm("transformer.ln_f", contract.final_norm, hidden)
    if contract.pooling is not None and contract.pooling.kind == "pooler":
        yield from _linear("transformer.pooler.dense", hidden, hidden, True)


def _layer(prefix: str, config: ModelConfig) -> Iterator[tuple[str, Shape]]:
    hidden, tp = config.hidden_size, config.mapping.tp_size
    attention, feed_forward = config.contract.attention, config.contract.feed_forward
    if attention is not None:
        heads = _share("num_attention_heads", config.num_attention_heads, tp)
        inner = heads * config.head_size
        yield from _linear(f"{prefix}.attention.qkv", 3 * inner, hidden, attention.qkv_bias)
        yield from _linear(f"{prefix}.attention.dense", hidden, inner, attention.dense_bias)
        yield from _norm(f"{prefix}.{ATTENTION_NORMS[0]}", attention.residual.norm, hidden)
        yield from _norm(f"{prefix}.{ATTENTION_NORMS[1]}", attention.residual.post_norm, hidden)
    ffn = _share("intermediate_size", config.intermediate_size, tp)
    yield from _linear(f"{prefix}.mlp.fc", ffn, hidden, feed_forward.bias)
    if feed_forward.gated:
        yield from _linear(f"{prefix}.mlp.gate", ffn, hidden, feed_forward.bias)
    yield from _linear(f"{prefix}.mlp.proj", hidden, ffn, feed_forward.bias)
    names = feed_forward_norm_names(feed_forward.residual)
    yield from _norm(f"{prefix}.{names[0]}", feed_forward.residual.norm, hidden)
    yield from _norm(f"{prefix}.{names[1]}", feed_forward.residual.post_norm, hidden)


def _linear(prefix: str, out_features: int, in_features: int, bias: bool) -> Iterator[tuple[str, Shape]]:
    yield f"{prefix}.weight", (out_features, in_features)
    if bias:
        yield f"{prefix}.bias", (out_features,)


def _norm(prefix: str, norm: NormContract | None, hidden: int) -> Iterator[tuple[str, Shape]]:
    if norm is not None:
        yield f"{prefix}.weight", (hidden,)
        if norm.bias:
            yield f"{prefix}.bias", (hidden,)


def _share(name: str, size: int, tp_size: int) -> int:
    if size % tp_size:
        raise ConfigError(
            f"{name}={size} does not split over tp_size={tp_size}. Pick a tp_size that divides it."
        )
    return size // tp_size
