"""Decoders with RMS norms that are neither Llama's nor Gemma's: each differs from Llama in one or two places."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from trtllm_ext.checkpoint.convert.architectures.llama import BESIDE, EXAMPLE, FUSED, LAYERS, WEIGHTS, read
from trtllm_ext.checkpoint.convert.architectures.spec import StackArchitecture, StackForm
from trtllm_ext.checkpoint.convert.hf_config import HfConfig
from trtllm_ext.checkpoint.form_parts import (
    llama_norm,
    plain_form,
    residual,
    rms_norm,
)


def _read_glm(config: HfConfig, layers: range) -> StackForm:
    return replace(read(config, layers, eps=1.5625e-7), weights=FUSED)


def _read_glm4(config: HfConfig, layers: range) -> StackForm:
    form = _read_glm(config, layers)
    norm = llama_norm(config.eps("rms_norm_eps", 1.5625e-7))
    joined = residual(norm, placement="sandwich", post_norm=norm)
    norms = {
        "pre_feedforward_layernorm": "post_attention_layernorm",
        "post_feedforward_layernorm": "post_mlp_layernorm",
    }
    return replace(form, feed_forward=replace(form.feed_forward, residual=joined), weights={**FUSED, **norms})


def _read_helium(config: HfConfig, layers: range) -> StackForm:
    form = read(config, layers, eps=1e-8, bias="mlp_bias")
    norm = rms_norm(config.eps("rms_norm_eps", 1e-8))
    return replace(form, feed_forward=replace(form.feed_forward, residual=residual(norm)))


def _read_arcee(config: HfConfig, layers: range) -> StackForm:
    norm = llama_norm(config.eps("rms_norm_eps", 1e-5))
    form = plain_form(
        config.activation("hidden_act", "relu2"), residual(norm), bias=config.flag("mlp_bias", False)
    )
    return StackForm(
        hidden_size=config.size("hidden_size"),
        ffn_hidden_size=config.size("intermediate_size"),
        feed_forward=form,
        weights={
            "post_layernorm": "post_attention_layernorm",
            "mlp.fc": "mlp.up_proj",
            "mlp.proj": "mlp.down_proj",
        },
    )


def _read_exaone4(config: HfConfig, layers: range) -> StackForm:
    form = read(config, layers, eps=1e-5)
    norm = llama_norm(config.eps("rms_norm_eps", 1e-5))
    return replace(
        form,
        feed_forward=replace(form.feed_forward, residual=residual(norm, placement="branch")),
        weights={**WEIGHTS, "post_layernorm": "post_feedforward_layernorm"},
    )


SMOLLM3 = StackArchitecture(
    model_type="smollm3",
    prefix="SmolLM3",
    read=partial(read, bias="mlp_bias"),
    layers=LAYERS,
    beside=BESIDE,
    other_fields=frozenset({"no_rope_layers", "no_rope_layer_interval"}),
    example=EXAMPLE,
)
SEED_OSS = replace(
    SMOLLM3, model_type="seed_oss", prefix="SeedOss", other_fields=frozenset({"attention_out_bias"})
)
ERNIE4_5 = replace(
    SMOLLM3,
    model_type="ernie4_5",
    prefix="Ernie4_5",
    read=partial(read, eps=1e-5, bias="use_bias"),
    other_fields=frozenset(),
)
HELIUM = replace(SMOLLM3, model_type="helium", prefix="Helium", read=_read_helium, other_fields=frozenset())
ARCEE = replace(
    SMOLLM3,
    model_type="arcee",
    prefix="Arcee",
    read=_read_arcee,
    other_fields=frozenset(),
    example={**EXAMPLE, "hidden_act": "relu2"},
)
GLM = replace(
    SMOLLM3,
    model_type="glm",
    prefix="Glm",
    read=_read_glm,
    other_fields=frozenset(),
    note="gate and up stored as one matrix, gate first",
)
GLM4 = replace(
    GLM,
    model_type="glm4",
    prefix="Glm4",
    read=_read_glm4,
    beside=(*BESIDE, "post_self_attn_layernorm"),
)
EXAONE4 = replace(
    SMOLLM3,
    model_type="exaone4",
    prefix="Exaone4",
    read=_read_exaone4,
    beside=("self_attn", "post_attention_layernorm"),
    other_fields=frozenset(),
)

ARCHITECTURES = (SMOLLM3, SEED_OSS, ERNIE4_5, HELIUM, ARCEE, GLM, GLM4, EXAONE4)
