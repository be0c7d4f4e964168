"""The names and shapes of the weights that a config calls for.

The single list that the converter fills, the reader checks against and random checkpoints are made from.
Names are TensorRT-LLM's; matrices are (out_features, in_features); shapes are those of one rank. Over tensor-parallel
ranks the split is Megatron's (Shoeybi et al. 2019, section 3): rows of fc, gate and qkv with their biases, columns of
proj and dense, and what lies between them in width; everything else is whole on each rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from trtllm_ext.checkpoint.config import ModelConfig
from trtllm_ext.checkpoint.contract import FeedForwardContract, NormContract, ResidualContract
from trtllm_ext.checkpoint.hyper_connections import weight_shapes as hyper_connection_shapes
from trtllm_ext.errors import ConfigError
from trtllm_ext.suggest import divisors

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

    Raises ConfigError when tp_size does not divide the heads or a feed-forward width, with the sizes that do.
    """
    tp_size, sizes = config.mapping.tp_size, _split_sizes(config)
    for name, size in sizes.items():
        if size % tp_size:
            raise ConfigError(
                f"{name}={size} does not split over tp_size={tp_size}; tp sizes that do for this model: "
                f"{divisors(math.gcd(*sizes.values()))}."
            )
    return dict(_weights(config))


def _split_sizes(config: ModelConfig) -> dict[str, int]:
    """What is divided among the ranks, by its name in a config."""
    sizes = {"intermediate_size": config.intermediate_size}
    if config.contract.attention is not None:
        sizes["num_attention_heads"] = config.num_attention_heads
    mixture = config.contract.feed_forward.mixture
    if mixture is not None and mixture.shared_expert_intermediate_size is not None:
        sizes["shared_expert_intermediate_size"] = mixture.shared_expert_intermediate_size
    return sizes


def _weights(config: ModelConfig) -> Iterator[tuple[str, Shape]]:
    contract, hidden = config.contract, config.hidden_size
    if contract.embedding is not None:
        prefix = "transformer.embedding"
        yield f"{prefix}.vocab_embedding.weight", (config.vocab_size or 0, hidden)
        yield f"{prefix}.position_embedding.weight", (config.max_position_embeddings or 0, hidden)
        if contract.embedding.token_type:
            yield f"{prefix}.token_embedding.weight", (config.type_vocab_size or 0, hidden)
        yield from _norm(f"{prefix}.embedding_ln", contract.embedding.norm, hidden)
    for i in range(config.num_hidden_layers):
        yield from _layer(f"transformer.layers.{i}", config)
    yield from _norm("transformer.ln_f", contract.final_norm, hidden)
    if contract.pooling is not None and contract.pooling.kind == "pooler":
        yield from _linear("transformer.pooler.dense", hidden, hidden, True)


def _layer(prefix: str, config: ModelConfig) -> Iterator[tuple[str, Shape]]:
    hidden, tp = config.hidden_size, config.mapping.tp_size
    attention, feed_forward = config.contract.attention, config.contract.feed_forward
    if attention is not None:
        inner = config.num_attention_heads // tp * config.head_size
        yield from _linear(f"{prefix}.attention.qkv", 3 * inner, hidden, attention.qkv_bias)
        yield from _linear(f"{prefix}.attention.dense", hidden, inner, attention.dense_bias)
        yield from _norm(f"{prefix}.{ATTENTION_NORMS[0]}", attention.residual.norm, hidden)
        yield from _norm(f"{prefix}.{ATTENTION_NORMS[1]}", attention.residual.post_norm, hidden)
        yield from _residual(f"{prefix}.attention", attention.residual, hidden)
    yield from _feed_forward(f"{prefix}.mlp", config)
    residual = feed_forward.residual
    names = feed_forward_norm_names(residual)
    yield from _norm(f"{prefix}.{names[0]}", residual.norm, hidden)
    yield from _norm(f"{prefix}.{names[1]}", residual.post_norm, hidden)
    yield from _residual(f"{prefix}.mlp", residual, hidden)


def _feed_forward(prefix: str, config: ModelConfig) -> Iterator[tuple[str, Shape]]:
    form, hidden, tp = config.contract.feed_forward, config.hidden_size, config.mapping.tp_size
    ffn = config.intermediate_size // tp
    mixture = form.mixture
    experts: Shape = () if mixture is None else (mixture.num_experts,)
    if mixture is not None:
        yield from _linear(f"{prefix}.router", mixture.num_experts, hidden, mixture.router_bias)
    yield from _matrices(prefix, form, ffn, hidden, experts)
    yield from _norm(f"{prefix}.inner_layernorm", form.inner_norm, ffn)
    if mixture is not None and mixture.shared_expert_intermediate_size is not None:
        shared = mixture.shared_expert_intermediate_size // tp
        plain = replace(form, fc_bias=False, proj_bias=False)
        yield from _matrices(f"{prefix}.shared_expert", plain, shared, hidden)
        if mixture.shared_expert_gate:
            yield from _linear(f"{prefix}.shared_expert_gate", 1, hidden, False)


def _matrices(
    prefix: str, form: FeedForwardContract, ffn: int, hidden: int, experts: Shape = ()
) -> Iterator[tuple[str, Shape]]:
    yield from _linear(f"{prefix}.fc", ffn, hidden, form.fc_bias, experts)
    if form.gated:
        yield from _linear(f"{prefix}.gate", ffn, hidden, form.fc_bias, experts)
    yield from _linear(f"{prefix}.proj", hidden, ffn, form.proj_bias, experts)


def _residual(prefix: str, residual: ResidualContract, hidden: int) -> Iterator[tuple[str, Shape]]:
    """The weights of the residual block itself, named after its sublayer."""
    if residual.gate != "none":
        yield f"{prefix}_scale.weight", (hidden if residual.gate == "channel" else 1,)
    connections = residual.hyper_connections
    if connections is not None:
        shapes = hyper_connection_shapes(
            connections.kind, connections.num_streams, hidden, norm=connections.norm
        )
        for name, shape in shapes.items():
            yield f"{prefix}_connections.{name}", shape


def _linear(
    prefix: str, out_features: int, in_features: int, bias: bool, experts: Shape = ()
) -> Iterator[tuple[str, Shape]]:
    yield f"{prefix}.weight", (*experts, out_features, in_features)
    if bias:
        yield f"{prefix}.bias", (*experts, out_features)


def _norm(prefix: str, norm: NormContract | None, hidden: int) -> Iterator[tuple[str, Shape]]:
    if norm is not None and norm.weight:
        yield f"{prefix}.weight", (hidden,)
        if norm.bias:
            yield f"{prefix}.bias", (hidden,)
