"""Decoders of two matrices off a LayerNorm, one sublayer after the other."""

from dataclasses import replace

import published_decoders as configs
import pytest
import torch
import transformers as hf
from stack_against_transformers import Case, cases, cases_in_types, check, saved_model

from trtllm_ext.checkpoint import convert
from trtllm_ext.errors import CheckpointError

BUDGET_S = 8

SIZES = {
    "vocab_size": 50,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "pad_token_id": 0,
}
OPT_SIZES = {**{name: SIZES[name] for name in SIZES if name != "intermediate_size"}, "ffn_dim": 40}


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


def post_norm_opt_layer(layer, x):
    """The layer without its attention's norm: beside an attention of zeros, the feed-forward sublayer alone."""
    layer.self_attn_layer_norm = torch.nn.Identity()
    return layer(x)


def opt(name, expect, **changes):
    post = {"attention_input": False, "call": post_norm_opt_layer}
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


POST_NORM_OPT = opt(
    "OPTPostNorm", {"residual.placement": "post"}, do_layer_norm_before=False, word_embed_proj_dim=16
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
# Nor have those of CTRL.
CTRL = Case(
    name="CTRL",
    config=hf.CTRLConfig(
        vocab_size=50, n_embd=24, dff=40, n_layer=3, n_head=4, n_positions=16, layer_norm_epsilon=1e-2
    ),
    model=hf.CTRLLMHeadModel,
    layers=lambda model: model.transformer.h,
    attention="multi_head_attention",
    expect={"activation": "relu", "residual.norm.eps": 1e-6},
)
NEMOTRON = decoder(
    "Nemotron", {"activation": "squared_relu", "residual.norm.weight_offset": 1.0}, num_key_value_heads=2
)
NEMOTRON_BIASED = decoder(
    "Nemotron", {"fc_bias": True}, "NemotronBiased", num_key_value_heads=2, mlp_bias=True, norm_eps=1e-3
)


@cases_in_types(
    opt("OPT", {"activation": "relu", "residual.placement": "pre"}),
    POST_NORM_OPT,
    opt(
        "OPTWithoutNormWeights",
        {"residual.norm.weight": False, "residual.norm.bias": False},
        layer_norm_elementwise_affine=False,
    ),
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
    CTRL,
    decoder("Jais2", {"activation": "squared_relu", "fc_bias": True}, layer_norm_eps=1e-3),
)
def test_the_stack_is_the_models_own_layers(case, tmp_path, dtype):
    check(case, tmp_path, dtype)


def published(case, name, config, **changes):
    known = {key: value for key, value in config.items() if key not in ("init_config", "auto_map")}
    return replace(
        case, name=name, config=type(case.config)(**known), whole_config=config, expect={}, **changes
    )


@cases(
    published(POST_NORM_OPT, "opt-350m", configs.OPT_350M),
    published(opt("", {}), "galactica", configs.GALACTICA),
    # BLOOM's weights are named without the model in front.
    published(BLOOM, "bloom-560m", configs.BLOOM_560M, model=hf.BloomModel, layers=lambda model: model.h),
    published(decoder("Starcoder2", {}), "starcoder2-3b", configs.STARCODER2_3B),
    published(NEMOTRON, "minitron", configs.MINITRON),
    published(MPT, "mpt-7b", configs.MPT_7B),
    every=2,
)
def test_configs_as_published(case, tmp_path):
    check(case, tmp_path, "float32")


@pytest.mark.parametrize(
    ("case", "changed", "expected"),
    [
        (opt("", {}), {"layer_norm_elementwise_affine": False}, "final_layer_norm.(weight|bias) is not used"),
        (opt("", {}), {"enable_bias": False}, "fc1.bias is not used"),
        (opt("", {}), {"activation_function": "prelu"}, "activation_function='prelu' is not known"),
        (
            BLOOM,
            {"apply_residual_connection_post_layernorm": True},
            "apply_residual_connection_post_layernorm=True is not supported",
        ),
        (BLOOM, {"slow_but_exact": True}, "slow_but_exact=True is not supported"),
        (BLOOM, {"n_inner": 40}, "n_inner=40 is not supported; expected 96"),
        (BLOOM, {"n_embed": 48}, "n_embed=48 is not supported; expected 24"),
        (MPT, {"no_bias": False}, "no_bias=False is not supported"),
        (MPT, {"norm_type": "rmsnorm"}, "norm_type='rmsnorm' is not supported"),
        (NEMOTRON, {"norm_eps": 0}, "norm_eps=0 is not a number between 0 and 1"),
    ],
)
def test_what_is_refused(tmp_path, case, changed, expected):
    saved_model(replace(case, changed_config=changed), tmp_path / "model", "float32")
    with pytest.raises(CheckpointError, match=expected):
        convert(tmp_path / "model", tmp_path / "checkpoint")


def test_attention_cannot_be_given_to_a_post_norm(tmp_path):
    saved_model(POST_NORM_OPT, tmp_path / "model", "float32")
    with pytest.raises(CheckpointError, match="'post'"):
        convert(tmp_path / "model", tmp_path / "checkpoint", attention_input=True)
