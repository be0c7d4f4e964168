"""Mixtures of experts: of Llama's layer, the feed-forward becomes several, of which a router chooses."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any

from trtllm_ext.checkpoint.contract import MixtureContract
from trtllm_ext.checkpoint.convert.architectures.forms import gated_form, llama_norm, residual, rms_norm
from trtllm_ext.checkpoint.convert.architectures.llama import BESIDE, LAYERS, WEIGHTS
from trtllm_ext.checkpoint.convert.architectures.spec import (
    Source,
    StackArchitecture,
    StackForm,
    experts,
    named,
)
from trtllm_ext.checkpoint.convert.hf_config import HfConfig
from trtllm_ext.checkpoint.convert.mxfp4 import BLOCKS, Mxfp4Weights
from trtllm_ext.checkpoint.convert.pieces import Joined, Piece, Shape, Weight
from trtllm_ext.errors import CheckpointError

# Said for training: what the router adds to the loss, noise in its input, what the model returns beside.
_TRAINING = frozenset({"output_router_logits", "router_aux_loss_coef", "router_jitter_noise"})
_Places = Mapping[str, str | Source]
_NORM = {"post_layernorm": "post_attention_layernorm"}


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
    **_NORM,
    "mlp.router": "block_sparse_moe.gate",
    "mlp.fc": experts("block_sparse_moe.experts.{}.w1"),
    "mlp.gate": experts("block_sparse_moe.experts.{}.w3"),
    "mlp.proj": experts("block_sparse_moe.experts.{}.w2"),
}
_QWEN_WEIGHTS: _Places = {
    **_NORM,
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
    **_NORM,
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


def _mixture(config: HfConfig, *, renormalized: bool, **changes: Any) -> MixtureContract:
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
    mixture = _mixture(config, renormalized=True)
    return _form(config, mixture, "intermediate_size", _MIXTRAL_WEIGHTS, _STACKED)


def _read_granite(config: HfConfig, layers: range) -> StackForm:
    mixture = _mixture(config, renormalized=True)
    scale = config.number("residual_multiplier", 1.0)
    return _form(config, mixture, "intermediate_size", _GRANITE_WEIGHTS, _GRANITE_STACKED, scale=scale)


def _read_olmoe(config: HfConfig, layers: range) -> StackForm:
    mixture = _mixture(config, renormalized=config.flag("norm_topk_prob", False))
    return _form(config, mixture, "intermediate_size", _QWEN_WEIGHTS, _STACKED)


def _read_qwen2(config: HfConfig, layers: range) -> StackForm:
    width = config.size("shared_expert_intermediate_size")
    return _read_qwen(config, layers, shared_expert_intermediate_size=width, shared_expert_gate=True)


def _read_qwen(config: HfConfig, layers: range, **shared: Any) -> StackForm:
    mixture = _mixture(config, renormalized=config.flag("norm_topk_prob", False), **shared)
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


def _read_gpt_oss(config: HfConfig, layers: range) -> StackForm:
    # x sigmoid(alpha x) is an activation by the name of quick_gelu for this alpha alone.
    config.fixed("swiglu_alpha", 1.702)
    _check_quantization(config)
    mixture = _mixture(config, renormalized=True, router_bias=True)
    config.fixed("experts_per_token", mixture.top_k)
    return StackForm(
        hidden_size=config.size("hidden_size"),
        ffn_hidden_size=config.size("intermediate_size"),
        feed_forward=gated_form(
            "quick_gelu",
            residual(rms_norm(config.eps("rms_norm_eps"))),
            bias=True,
            clamp=config.number("swiglu_limit", 7.0),
            gate_offset=1.0,
            mixture=mixture,
        ),
        weights={
            **_NORM,
            "mlp.router": "mlp.router",
            "mlp.fc": _interleaved(0),
            "mlp.gate": _interleaved(1),
            "mlp.proj": _down,
        },
        other_namings=({"mlp.fc": _coded_rows(0), "mlp.gate": _coded_rows(1), "mlp.proj": _coded_down},),
        decode=Mxfp4Weights,
    )


def _check_quantization(config: HfConfig) -> None:
    quantization = config.get("quantization_config", {})
    method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
    if method not in (None, "mxfp4"):
        raise CheckpointError(
            f"{config.path}: quantization_config has quant_method={method!r}; of quantised models those in 'mxfp4' can "
            "be read. Dequantise this one first: load it into the type wanted and save it again."
        )


def _interleaved(start: int) -> Source:
    """Every second column of (experts, hidden, 2 * ffn), and of the bias."""

    def source(leaf: str, shape: Shape) -> Weight:
        if leaf == "bias":
            return _coded_rows(start)(leaf, shape)
        num_experts, ffn, hidden = shape
        return (
            Piece("mlp.experts.gate_up_proj", (num_experts, hidden, 2 * ffn))
            .transpose()
            .every_second(start, 1)
        )

    return source


def _down(leaf: str, shape: Shape) -> Weight:
    if leaf == "bias":
        return Piece("mlp.experts.down_proj_bias", shape)
    return Piece("mlp.experts.down_proj", (shape[0], shape[2], shape[1])).transpose()


def _coded_rows(start: int) -> Source:
    """Every second row of the coded (experts, 2 * ffn, hidden), and of the bias."""

    def source(leaf: str, shape: Shape) -> Weight:
        stem, source_shape = "mlp.experts.gate_up_proj", (shape[0], 2 * shape[1], *shape[2:])
        if leaf == "bias":
            return Piece(f"{stem}_bias", source_shape).every_second(start)
        return _by_expert(Piece(stem + BLOCKS, source_shape).every_second(start, axis=1))

    return source


def _coded_down(leaf: str, shape: Shape) -> Weight:
    return (
        _down(leaf, shape) if leaf == "bias" else _by_expert(Piece("mlp.experts.down_proj" + BLOCKS, shape))
    )


def _by_expert(piece: Piece) -> Joined:
    """One piece for each expert, so that no more than one expert's weights are decoded at a time."""
    return Joined(tuple(piece.only(expert) for expert in range(piece.shape[0])), piece.shape)


_EXAMPLE = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "num_experts_per_tok": 2,
}
_QWEN_EXAMPLE = {**_EXAMPLE, "num_experts": 8, "moe_intermediate_size": 48, "norm_topk_prob": True}
_QWEN_FIELDS = _TRAINING | {"intermediate_size", "moe_intermediate_size"}


def _spec(model_type: str, prefix: str, **fields: Any) -> StackArchitecture:
    return StackArchitecture(
        **{
            "model_type": model_type,
            "prefix": prefix,
            "layers": LAYERS,
            "beside": BESIDE,
            "other_fields": _TRAINING,
            **fields,
        }
    )


MIXTRAL = _spec("mixtral", "Mixtral", read=_read_mixtral, example={**_EXAMPLE, "num_local_experts": 8})
QWEN2_MOE = _spec(
    "qwen2_moe",
    "Qwen2Moe",
    read=_read_qwen2,
    other_fields=_QWEN_FIELDS,
    example={**_QWEN_EXAMPLE, "shared_expert_intermediate_size": 96, "norm_topk_prob": False},
    note="layers without experts (decoder_sparse_step, mlp_only_layers) are converted apart",
)
QWEN3_MOE = _spec(
    "qwen3_moe",
    "Qwen3Moe",
    read=_read_qwen,
    other_fields=_QWEN_FIELDS,
    example=_QWEN_EXAMPLE,
    note="layers without experts (decoder_sparse_step, mlp_only_layers) are converted apart",
)
OLMOE = _spec(
    "olmoe",
    "Olmoe",
    read=_read_olmoe,
    other_fields=_TRAINING | {"clip_qkv"},
    example={**_EXAMPLE, "num_experts": 8},
)
GRANITEMOE = _spec(
    "granitemoe",
    "GraniteMoe",
    read=_read_granite,
    other_fields=_TRAINING | {"embedding_multiplier", "logits_scaling", "attention_multiplier"},
    example={**_EXAMPLE, "num_local_experts": 8, "residual_multiplier": 0.22},
)
GPT_OSS = _spec(
    "gpt_oss",
    "GptOss",
    read=_read_gpt_oss,
    # Its experts have one activation, whatever hidden_act says.
    other_fields=_TRAINING | {"hidden_act", "initial_context_length"},
    example={**_EXAMPLE, "num_local_experts": 8, "swiglu_limit": 7.0},
    note="gate and up stored in turns; MXFP4 is decoded exactly",
)

ARCHITECTURES = (MIXTRAL, QWEN2_MOE, QWEN3_MOE, OLMOE, GRANITEMOE, GPT_OSS)
