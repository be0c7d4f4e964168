"""OLMo: first a norm without weights; in 2 and 3 a norm of what a sublayer gives, which reads the stream as it is."""

from __future__ import annotations

from dataclasses import replace

from trtllm_ext.checkpoint.convert.architectures.llama import BESIDE, LAYERS, WEIGHTS
from trtllm_ext.checkpoint.convert.architectures.spec import StackArchitecture, StackForm
from trtllm_ext.checkpoint.convert.hf_config import HfConfig
from trtllm_ext.checkpoint.form_parts import gated_form, layer_norm, residual, rms_norm


def _read(config: HfConfig, layers: range) -> StackForm:
    norm = rms_norm(config.eps("rms_norm_eps", 1e-5))
    return StackForm(
        hidden_size=config.size("hidden_size"),
        ffn_hidden_size=config.size("intermediate_size"),
        feed_forward=gated_form(config.activation("hidden_act", "silu"), residual(norm, placement="branch")),
        weights={**WEIGHTS, "post_layernorm": "post_feedforward_layernorm"},
    )


def _read_olmo(config: HfConfig, layers: range) -> StackForm:
    return StackForm(
        hidden_size=config.size("hidden_size"),
        ffn_hidden_size=config.size("intermediate_size"),
        feed_forward=gated_form(
            # The eps stands in its code.
            config.activation("hidden_act", "silu"),
            residual(layer_norm(1e-5, weight=False)),
        ),
        weights=WEIGHTS,
    )


OLMO = StackArchitecture(
    model_type="olmo",
    prefix="Olmo",
    read=_read_olmo,
    layers=LAYERS,
    beside=BESIDE,
    other_fields=frozenset({"clip_qkv"}),
    example={"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "hidden_act": "silu"},
)
OLMO2 = StackArchitecture(
    model_type="olmo2",
    prefix="Olmo2",
    read=_read,
    layers=LAYERS,
    beside=("self_attn", "post_attention_layernorm"),
    example={
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 2,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
    },
)
OLMO3 = replace(OLMO2, model_type="olmo3", prefix="Olmo3")

ARCHITECTURES = (OLMO, OLMO2, OLMO3)
