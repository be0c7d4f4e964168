"""GPT-2's line: LayerNorm before (or after) a feed-forward of two matrices, one sublayer after the other."""

import pytest
import torch
import transformers as hf
from stack_against_transformers import Case, cases, check

BUDGET_S = 8

GPT2_SIZES = {"vocab_size": 50, "n_embd": 24, "n_layer": 3, "n_head": 4, "n_positions": 16}
SIZES = {
    "vocab_size": 50,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "pad_token_id": 0,
}
OPT_SIZES = {**{name: SIZES[name] for name in SIZES if name != "intermediate_size"}, "ffn_dim": 40}
IN_TRANSFORMER_H = {"layers": lambda model: model.transformer.h, "attention": "attn"}


class AddsTheSkip(torch.nn.Module):
    """BLOOM's attention adds its skip itself."""

    def __init__(self, given):
        super().__init__()
        self.given = given

    def forward(self, x, residual, **options):
        return self.given(x)[0] + residual, None


def bloom_layer(layer, x):
    layer.self_attention = AddsTheSkip(layer.self_attention)
    return layer(x, alibi=None, attention_mask=None)


def without(*names):
    """The layer by itself, its attention's norms left out: beside an attention of zeros, the feed-forward alone."""

    def call(layer, x):
        for name in names:
            setattr(layer, name, torch.nn.Identity())
        return layer(x)

    return call


def gpt2(name, **changes):
    config = hf.GPT2Config(**{**GPT2_SIZES, **changes})
    return Case(name=name, config=config, model=hf.GPT2LMHeadModel, **IN_TRANSFORMER_H)


def opt(name, expect, **changes):
    post = {"attention_input": False, "call": without("self_attn_layer_norm")}
    return Case(
        name=name,
        config=hf.OPTConfig(**{**OPT_SIZES, **changes}),
        model=hf.OPTForCausalLM,
        layers=lambda model: model.model.decoder.layers,
        expect=expect,
        **(post if changes.get("do_layer_norm_before") is False else {}),
    )


def decoder(prefix, expect, name=None, **changes):
    """A model whose layers are in model.layers and have their attention in self_attn."""
    config = getattr(hf, f"{prefix}Config")(**{**SIZES, **changes})
    return Case(name=name or prefix, config=config, model=getattr(hf, f"{prefix}ForCausalLM"), expect=expect)


OPENAI_GPT = Case(
    name="OpenAIGPT",
    config=hf.OpenAIGPTConfig(**GPT2_SIZES),
    model=hf.OpenAIGPTLMHeadModel,
    **IN_TRANSFORMER_H,
    wrap=lambda output: [output],
    call=lambda layer, x: without("ln_1")(layer, x)[0],
    attention_input=False,
    expect={"activation": "gelu_tanh", "residual.placement": "post"},
)
BIGCODE = Case(
    name="GPTBigCode",
    config=hf.GPTBigCodeConfig(**GPT2_SIZES, n_inner=56),
    model=hf.GPTBigCodeForCausalLM,
    **IN_TRANSFORMER_H,
)
NEO = Case(
    name="GPTNeo",
    config=hf.GPTNeoConfig(
        vocab_size=50,
        hidden_size=24,
        num_layers=4,
        num_heads=4,
        window_size=8,
        attention_types=[[["global", "local"], 2]],
        layer_norm_epsilon=1e-3,
    ),
    model=hf.GPTNeoForCausalLM,
    **IN_TRANSFORMER_H,
    expect={"activation": "gelu_tanh", "residual.norm.eps": 1e-3},
)
BLOOM = Case(
    name="Bloom",
    config=hf.BloomConfig(vocab_size=50, hidden_size=24, n_layer=3, n_head=4),
    model=hf.BloomForCausalLM,
    layers=lambda model: model.transformer.h,
    attention="self_attention",
    call=bloom_layer,
    expect={"activation": "gelu_tanh", "residual.norm.bias": True},
)
MPT = Case(
    name="Mpt",
    config=hf.MptConfig(vocab_size=50, d_model=24, n_layers=3, n_heads=4),
    model=hf.MptForCausalLM,
    layers=lambda model: model.transformer.blocks,
    attention="attn",
    call=lambda layer, x: layer(x, position_bias=None, attention_mask=None),
    expect={"activation": "gelu_erf", "fc_bias": False, "residual.norm.bias": False},
)
XGLM = Case(
    name="XGLM",
    config=hf.XGLMConfig(vocab_size=50, d_model=24, ffn_dim=40, num_layers=3, attention_heads=4),
    model=hf.XGLMForCausalLM,
)
# Its norms do not have the epsilon of the config.
BIOGPT = decoder("BioGpt", {"residual.norm.eps": 1e-5}, layer_norm_eps=1e-2)
BIOGPT.layers = lambda model: model.biogpt.layers
NEMOTRON = decoder(
    "Nemotron", {"activation": "squared_relu", "residual.norm.weight_offset": 1.0}, num_key_value_heads=2
)
NEMOTRON_BIASED = decoder(
    "Nemotron", {"fc_bias": True}, "NemotronBiased", num_key_value_heads=2, mlp_bias=True, norm_eps=1e-3
)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@cases(
    gpt2("GPT2"),
    gpt2("GPT2Erf", n_inner=56, activation_function="gelu", layer_norm_epsilon=1e-3),
    OPENAI_GPT,
    BIGCODE,
    NEO,
    opt("OPT", {"activation": "relu", "residual.placement": "pre"}),
    opt("OPTPostNorm", {"residual.placement": "post"}, do_layer_norm_before=False, word_embed_proj_dim=16),
    opt("OPTWithoutBias", {"fc_bias": False, "proj_bias": False}, enable_bias=False),
    BLOOM,
    decoder("Starcoder2", {"activation": "gelu_tanh", "fc_bias": True}),
    decoder("Starcoder2", {"proj_bias": False}, "Starcoder2WithoutBias", use_bias=False, norm_epsilon=1e-3),
    NEMOTRON,
    NEMOTRON_BIASED,
    MPT,
    decoder("Persimmon", {"activation": "squared_relu", "fc_bias": True}),
    XGLM,
    BIOGPT,
)
def test_the_stack_is_the_models_own_layers(case, tmp_path, dtype):
    check(case, tmp_path, dtype)
