"""Llama and the architectures that took over its layer: RMS norm before, a gated feed-forward."""

from __future__ import annotations

from trtllm_ext.checkpoint.convert.architectures.forms import gated_form, llama_norm, residual
from trtllm_ext.checkpoint.convert.architectures.spec import StackArchitecture, StackForm, half
from trtllm_ext.checkpoint.convert.hf_config import HfConfig

LAYERS = ("model.layers", "layers")
BESIDE = ("self_attn", "input_layernorm")
WEIGHTS = {
    "post_layernorm": "post_attention_layernorm",
    "mlp.fc": "mlp.gate_proj",
    "mlp.gate": "mlp.up_proj",
    "mlp.proj": "mlp.down_proj",
}
_EXAMPLE = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
}


def _read(config: HfConfig, layers: range) -> StackForm:
    norm = llama_norm(config.eps("rms_norm_eps", 1e-6))
    # Granite's factor of what each sublayer adds; other configs do not have the field.
    scale = config.number("residual_multiplier", 1.0)
    return StackForm(
        hidden_size=config.size("hidden_size"),
        ffn_hidden_size=config.size("intermediate_size"),
        feed_forward=gated_form(
            config.activation("hidden_act", "silu"),
            residual(norm, scale=scale),
            bias=config.flag("mlp_bias", False),
        ),
        weights=WEIGHTS,
    )


def _read_phi3(config: HfConfig, layers: range) -> StackForm:
    form = _read(config, layers)
    fused = {"mlp.fc": half("mlp.gate_up_proj", 0), "mlp.gate": half("mlp.gate_up_proj", 1)}
    return StackForm(
        hidden_size=form.hidden_size,
        ffn_hidden_size=form.ffn_hidden_size,
        feed_forward=form.feed_forward,
        weights={**WEIGHTS, **fused},
    )


LLAMA = StackArchitecture(
    model_type="llama", prefix="Llama", read=_read, layers=LAYERS, beside=BESIDE, example=_EXAMPLE
)
MISTRAL = StackArchitecture(
    model_type="mistral", prefix="Mistral", read=_read, layers=LAYERS, beside=BESIDE, example=_EXAMPLE
)
QWEN2 = StackArchitecture(
    model_type="qwen2", prefix="Qwen2", read=_read, layers=LAYERS, beside=BESIDE, example=_EXAMPLE
)
QWEN3 = StackArchitecture(
    model_type="qwen3", prefix="Qwen3", read=_read, layers=LAYERS, beside=BESIDE, example=_EXAMPLE
)
GRANITE = StackArchitecture(
    model_type="granite",
    prefix="Granite",
    read=_read,
    layers=LAYERS,
    beside=BESIDE,
    other_fields=frozenset({"embedding_multiplier", "logits_scaling", "attention_multiplier"}),
    example={**_EXAMPLE, "residual_multiplier": 0.22},
)
PHI3 = StackArchitecture(
    model_type="phi3",
    prefix="Phi3",
    read=_read_phi3,
    layers=LAYERS,
    beside=BESIDE,
    other_fields=frozenset({"resid_pdrop", "embd_pdrop", "original_max_position_embeddings"}),
    example=_EXAMPLE,
    note="gate and up stored as one matrix, gate first",
)

ARCHITECTURES = (LLAMA, MISTRAL, QWEN2, QWEN3, GRANITE, PHI3)
