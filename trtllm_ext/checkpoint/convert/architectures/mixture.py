"""Mixtures of experts: of Llama's layer, the feed-forward becomes several, of which a router chooses."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any

from trtllm_ext.checkpoint.contract import MixtureContract
from trtllm_ext.checkpoint.convert.architectures.llama import BESIDE, LAYERS, WEIGHTS
from trtllm_ext.checkpoint.convert.architectures.spec import (
    Source,
    StackArchitecture,
    StackForm,
    experts,
    named,
)
from trtllm_ext.checkpoint.convert.hf_config import HfConfig
from trtllm_ext.checkpoint.convert.pieces import Piece
from trtllm_ext.checkpoint.form_parts import gated_form, llama_norm, residual
from trtllm_ext.errors import CheckpointError

# Said for training: what the router adds to the loss, noise in its input, what the model returns beside.
TRAINING = frozenset({"output_router_logits", "router_aux_loss_coef", "router_jitter_noise"})
_Places = Mapping[str, str | Source]
NORM = {"post_layernorm": "post_attention_layernorm"}


def _half_of_each(name: str, index: int) -> Source:
    """The experts' first or second rows in one weight (experts, 2 * rows, columns)."""
    return lambda leaf, shape: Piece(name, (shape[0], 2 * shape[1], *shape[2:])).half(index, axis=1)


# Experts stacked in one weight, as transformers 5 holds them in memory.
_STACKED: _Places = {
    "mlp.router": "mlp.gate",
    "mlp.fc": _half_of_each("mlp.experts.gate_up_proj", 0),
    "mlp.gate": _half_of_each("mlp.experts.gate_up_proj", 1),
    "mlp.proj": named("mlp.experts.down_proj"),
}
_MIXTRAL_WEIGHTS: _Places = {
    **NORM,
    "mlp.router": "block_sparse_moe.gate",
    "mlp.fc": experts("block_sparse_moe.experts.{}.w1"),
    "mlp.gate": experts("block_sparse_moe.experts.{}.w3"),
    "mlp.proj": experts("block_sparse_moe.experts.{}.w2"),
}
_QWEN_WEIGHTS: _Places = {
    **NORM,
    "mlp.router": "mlp.gate",
    "mlp.fc": experts("mlp.experts.{}.gate_proj"),
    "mlp.gate": experts("mlp.experts.{}.up_proj"),
    "mlp.proj": experts("mlp.experts.{}.down_proj"),
    "mlp.shared_expert.fc": "mlp.shared_expert.gate_proj",
    "mlp.shared_expert.gate": "mlp.shared_expert.up_proj",
    "mlp.shared_expert.proj": "mlp.shared_expert.down_proj",
    "mlp.shared_expert_gate": "mlp.shared_expert_gate",
}
_GRANITE_WEIGHTS: _Places = {
    **NORM,
    "mlp.router": "block_sparse_moe.router.layer",
    "mlp.fc": _half_of_each("block_sparse_moe.input_linear.weight", 0),
    "mlp.gate": _half_of_each("block_sparse_moe.input_linear.weight", 1),
    "mlp.proj": "block_sparse_moe.output_linear",
}
_GRANITE_STACKED: _Places = {
    "mlp.router": "block_sparse_moe.router",
    "mlp.fc": _half_of_each("block_sparse_moe.experts.gate_up_proj", 0),
    "mlp.gate": _half_of_each("block_sparse_moe.experts.gate_up_proj", 1),
    "mlp.proj": named("block_sparse_moe.experts.down_proj"),
}


def _form(
    config: HfConfig,
    mixture: MixtureContract | None,
    width: str,
    weights: _Places,
    *other_namings: _Places,
    scale: float = 1.0,
) -> StackForm:
    """Llama's sublayer with a mixture. width: the field with the feed-forward width, of an expert in a mixture."""
    norm = llama_norm(config.eps("rms_norm_eps"))
    return StackForm(
        hidden_size=config.size("hidden_size"),
        ffn_hidden_size=config.size(width),
        feed_forward=gated_form(
            config.activation("hidden_act", "silu"), residual(norm, scale=scale), mixture=mixture
        ),
        weights=weights,
        other_namings=other_namings,
    )


def mixture_of(config: HfConfig, *, renormalized: bool, **changes: Any) -> MixtureContract:
    """From the fields that these architectures share, with fields of MixtureContract changed."""
    return MixtureContract(
        num_experts=_num_experts(config),
        top_k=config.size("num_experts_per_tok"),
        weights="renormalized" if renormalized else "softmax",
        **changes,
    )


def _num_experts(config: HfConfig) -> int:
    """Under either name: some configs have both, and releases of transformers differ in which one they write."""
    found = {name: config.size(name) for name in ("num_experts", "num_local_experts") if name in config}
    if len(set(found.values())) > 1:
        raise CheckpointError(
            f"{config.path}: num_experts={found['num_experts']} and num_local_experts={found['num_local_experts']} "
            "contradict each other."
        )
    return config.size(next(iter(found), "num_experts"))


def _read_mixtral(config: HfConfig, layers: range) -> StackForm:
    mixture = mixture_of(config, renormalized=True)
    return _form(config, mixture, "intermediate_size", _MIXTRAL_WEIGHTS, _STACKED)


def _read_granite(config: HfConfig, layers: range) -> StackForm:
    mixture = mixture_of(config, renormalized=True)
    scale = config.number("residual_multiplier", 1.0)
    return _form(config, mixture, "intermediate_size", _GRANITE_WEIGHTS, _GRANITE_STACKED, scale=scale)


def _read_olmoe(config: HfConfig, layers: range) -> StackForm:
    mixture = mixture_of(config, renormalized=config.flag("norm_topk_prob", False))
    return _form(config, mixture, "intermediate_size", _QWEN_WEIGHTS, _STACKED)


def _read_qwen2(config: HfConfig, layers: range) -> StackForm:
    width = config.size("shared_expert_intermediate_size")
    return _read_qwen(config, layers, shared_expert_intermediate_size=width, shared_expert_gate=True)


def _read_qwen(config: HfConfig, layers: range, **shared: Any) -> StackForm:
    mixture = mixture_of(config, renormalized=config.flag("norm_topk_prob", False), **shared)
    if _have_mixture(config, layers):
        return _form(config, mixture, "moe_intermediate_size", _QWEN_WEIGHTS, _STACKED)
    return _form(config, None, "intermediate_size", WEIGHTS)


def _have_mixture(config: HfConfig, layers: range) -> bool:
    """Whether the layers have a mixture of experts or one feed-forward; raises CheckpointError when some differ."""
    step = config.size("decoder_sparse_step", 1)
    dense = config.get("mlp_only_layers", [])
    if not isinstance(dense, list) or not all(type(layer) is int for layer in dense):
        raise CheckpointError(f"{config.path}: mlp_only_layers={dense!r} is not a list of layers' numbers.")
    kinds = {layer: (layer + 1) % step == 0 and layer not in dense for layer in layers}
    if len(set(kinds.values())) > 1:
        runs = [(kind, list(run)) for kind, run in groupby(layers, kinds.__getitem__)]
        raise CheckpointError(
            f"{config.path}: layers {layers.start}:{layers.stop} are not of one form (decoder_sparse_step={step}, "
            f"mlp_only_layers={dense}). Convert a range of equal ones at a time, as layers="
            + ", ".join(
                f"'{run[0]}:{run[-1] + 1}' ({'mixture' if kind else 'one feed-forward'})"
                for kind, run in runs[:8]
            )
            + (f", and {len(runs) - 8} more." if len(runs) > 8 else ".")
        )
    return kinds[layers[0]]


EXAMPLE = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "num_experts_per_tok": 2,
}
_QWEN_EXAMPLE = {**EXAMPLE, "num_experts": 8, "moe_intermediate_size": 48, "norm_topk_prob": True}
_QWEN_FIELDS = TRAINING | {"intermediate_size", "moe_intermediate_size"}


def spec_of(model_type: str, prefix: str, **fields: Any) -> StackArchitecture:
    """With Llama's names of layers and what is beside, unless `fields` says otherwise."""
    return StackArchitecture(
        **{
            "model_type": model_type,
            "prefix": prefix,
            "layers": LAYERS,
            "beside": BESIDE,
            "other_fields": TRAINING,
            **fields,
        }
    )


MIXTRAL = spec_of("mixtral", "Mixtral", read=_read_mixtral, example={**EXAMPLE, "num_local_experts": 8})
QWEN2_MOE = spec_of(
    "qwen2_moe",
    "Qwen2Moe",
    read=_read_qwen2,
    other_fields=_QWEN_FIELDS,
    example={**_QWEN_EXAMPLE, "shared_expert_intermediate_size": 96, "norm_topk_prob": False},
    note="layers without experts (decoder_sparse_step, mlp_only_layers) are converted apart",
)
QWEN3_MOE = spec_of(
    "qwen3_moe",
    "Qwen3Moe",
    read=_read_qwen,
    other_fields=_QWEN_FIELDS,
    example=_QWEN_EXAMPLE,
    note="layers without experts (decoder_sparse_step, mlp_only_layers) are converted apart",
)
OLMOE = spec_of(
    "olmoe",
    "Olmoe",
    read=_read_olmoe,
    other_fields=TRAINING | {"clip_qkv"},
    example={**EXAMPLE, "num_experts": 8},
)
GRANITEMOE = spec_of(
    "granitemoe",
    "GraniteMoe",
    read=_read_granite,
    other_fields=TRAINING | {"embedding_multiplier", "logits_scaling", "attention_multiplier"},
    example={**EXAMPLE, "num_local_experts": 8, "residual_multiplier": 0.22},
)
ARCHITECTURES = (MIXTRAL, QWEN2_MOE, QWEN3_MOE, OLMOE, GRANITEMOE)
