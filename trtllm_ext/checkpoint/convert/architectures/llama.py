"""Llama and the architectures that took over its layer: RMS norm before, a gated feed-forward."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from trtllm_ext.checkpoint.convert.architectures.spec import Source, StackArchitecture, StackForm, half
from trtllm_ext.checkpoint.convert.hf_config import HfConfig
from trtllm_ext.checkpoint.form_parts import gated_form, llama_norm, residual

LAYERS = ("model.layers", "layers", "transformer.layers")
BESIDE = ("self_attn", "input_layernorm")
WEIGHTS = {
    "post_layernorm": "post_attention_layernorm",
    "mlp.fc": "mlp.gate_proj",
    "mlp.gate": "mlp.up_proj",
    "mlp.proj": "mlp.down_proj",
}
# Gate and up stored as one matrix, gate first.
FUSED: dict[str, str | Source] = {
    **WEIGHTS,
    "mlp.fc": half("mlp.gate_up_proj", 0),
    "mlp.gate": half("mlp.gate_up_proj", 1),
}
EXAMPLE = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
}


def read(config: HfConfig, layers: range, *, eps: float = 1e-6, bias: str | None = None) -> StackForm:
    """eps: where the config has none. bias: the field that says whether the matrices have biases; None: they do not."""
    return StackForm(
        hidden_size=config.size("hidden_size"),
        ffn_hidden_size=config.size("intermediate_size"),
        feed_forward=gated_form(
            config.activation("hidden_act", "silu"),
            residual(llama_norm(config.eps("rms_norm_eps", eps))),
            bias=config.flag(bias, False) if bias else False,
        ),
        weights=WEIGHTS,
    )


def _read_granite(config: HfConfig, layers: range) -> StackForm:
    form = read(config, layers, bias="mlp_bias")
    scaled = replace(form.feed_forward.residual, scale=config.number("residual_multiplier", 1.0))
    return replace(form, feed_forward=replace(form.feed_forward, residual=scaled))


def _read_phi3(config: HfConfig, layers: range) -> StackForm:
    return replace(read(config, layers, eps=1e-5), weights=FUSED)


LLAMA = StackArchitecture(
    model_type="llama",
    prefix="Llama",
    read=partial(read, bias="mlp_bias"),
    layers=LAYERS,
    beside=BESIDE,
    example=EXAMPLE,
)
MISTRAL = StackArchitecture(
    model_type="mistral", prefix="Mistral", read=read, layers=LAYERS, beside=BESIDE, example=EXAMPLE
)
QWEN2 = StackArchitecture(
    model_type="qwen2", prefix="Qwen2", read=read, layers=LAYERS, beside=BESIDE, example=EXAMPLE
)
QWEN3 = StackArchitecture(
    model_type="qwen3", prefix="Qwen3", read=read, layers=LAYERS, beside=BESIDE, example=EXAMPLE
)
GRANITE = StackArchitecture(
    model_type="granite",
    prefix="Granite",
    read=_read_granite,
    layers=LAYERS,
    beside=BESIDE,
    other_fields=frozenset({"embedding_multiplier", "logits_scaling", "attention_multiplier"}),
    example={**EXAMPLE, "residual_multiplier": 0.22},
)
PHI3 = StackArchitecture(
    model_type="phi3",
    prefix="Phi3",
    read=_read_phi3,
    layers=LAYERS,
    beside=BESIDE,
    other_fields=frozenset({"resid_pdrop", "embd_pdrop", "original_max_position_embeddings"}),
    example=EXAMPLE,
    note="gate and up stored as one matrix, gate first",
)

ARCHITECTURES = (LLAMA, MISTRAL, QWEN2, QWEN3, GRANITE, PHI3)
