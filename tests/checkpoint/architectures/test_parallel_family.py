"""Attention and feed-forward side by side: the feed-forward does not see what attention adds."""

from dataclasses import replace

import published_parallel as configs
import pytest
import transformers as hf
from stack_against_transformers import Case, cases, cases_in_types, check, saved_model

from trtllm_ext.checkpoint import convert
from trtllm_ext.errors import CheckpointError

BUDGET_S = 8

GPT2_SIZES = {"vocab_size": 50, "n_embd": 24, "n_layer": 3, "n_head": 4, "n_positions": 16, "rotary_dim": 4}
SIZES = {"vocab_size": 50, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4}
WITH_FFN = {**SIZES, "intermediate_size": 40, "pad_token_id": 0}
SHARED = {"residual.parallel": "shared_norm", "residual.placement": "pre"}
SEPARATE = {"residual.parallel": "separate_norms", "residual.placement": "pre"}
SEQUENTIAL = {"residual.parallel": "none", "residual.placement": "pre"}


def in_h(prefix, name, config, expect):
    """A model whose layers are in transformer.h and have their attention in attn."""
    return Case(
        name=name,
        config=config,
        model=getattr(hf, f"{prefix}ForCausalLM"),
        layers=lambda model: model.transformer.h,
        attention="attn",
        expect=expect,
    )


def neox(name, expect, **changes):
    return Case(
        name=name,
        config=hf.GPTNeoXConfig(**{**WITH_FFN, **changes}),
        model=hf.GPTNeoXForCausalLM,
        layers=lambda model: model.gpt_neox.layers,
        attention="attention",
        expect=expect,
    )


def falcon(name, expect, **changes):
    return Case(
        name=name,
        config=hf.FalconConfig(**{**SIZES, **changes}),
        model=hf.FalconForCausalLM,
        layers=lambda model: model.transformer.h,
        attention="self_attention",
        call=lambda layer, x: layer(x, alibi=None, attention_mask=None),
        expect=expect,
    )


def decoder(prefix, expect, name=None, **changes):
    """A model whose layers are in model.layers and have their attention in self_attn."""
    config = getattr(hf, f"{prefix}Config")(**{**WITH_FFN, **changes})
    return Case(name=name or prefix, config=config, model=getattr(hf, f"{prefix}ForCausalLM"), expect=expect)


GPTJ = in_h("GPTJ", "GPTJ", hf.GPTJConfig(**GPT2_SIZES), {**SHARED, "activation": "gelu_tanh"})
CODEGEN = in_h("CodeGen", "CodeGen", hf.CodeGenConfig(**GPT2_SIZES, n_inner=40), SHARED)
JAPANESE = Case(
    name="GPTNeoXJapanese",
    config=hf.GPTNeoXJapaneseConfig(**SIZES, intermediate_multiple_size=2),
    model=hf.GPTNeoXJapaneseForCausalLM,
    layers=lambda model: model.gpt_neox_japanese.layers,
    attention="attention",
    wrap=lambda output: (output, None, None),
    expect={**SEQUENTIAL, "fc_bias": False, "proj_bias": False},
)
COHERE = {**SHARED, "residual.norm.kind": "layer_norm", "residual.norm.bias": False, "gated": True}


def published(case, name, config, expect, known_as=None):
    """known_as: what transformers reads of such a model today."""
    known = {key: value for key, value in (known_as or config).items() if key != "auto_map"}
    return replace(
        case, name=name, config=type(case.config)(**known), whole_config=config, expect=expect, options={}
    )


FIRST_FALCON_40B = published(
    falcon("", {}),
    "first-falcon-40b",
    configs.first_falcon(configs.FALCON_40B, model_type="RefinedWeb"),
    SEPARATE,
    configs.FALCON_40B,
)


@cases_in_types(
    GPTJ,
    CODEGEN,
    neox("GPTNeoX", {**SEPARATE, "activation": "gelu_erf"}),
    neox(
        "GPTNeoXSequential",
        {**SEQUENTIAL, "residual.norm.eps": 1e-3},
        use_parallel_residual=False,
        layer_norm_eps=1e-3,
    ),
    JAPANESE,
    falcon("Falcon", {**SHARED, "fc_bias": False}),
    falcon("FalconSequential", {**SEQUENTIAL, "fc_bias": True}, parallel_attn=False, bias=True, alibi=True),
    falcon("FalconTwoNorms", SEPARATE, new_decoder_architecture=True, num_kv_heads=2),
    falcon(
        "FalconNewOneNorm",
        SHARED,
        new_decoder_architecture=True,
        num_ln_in_parallel_attn=1,
        ffn_hidden_size=40,
    ),
    FIRST_FALCON_40B,
    decoder("Phi", {**SHARED, "activation": "gelu_tanh"}, hidden_act="gelu_new"),
    decoder("Cohere", COHERE, layer_norm_eps=1e-3),
    decoder("Cohere2", COHERE),
    decoder("StableLm", {**SEQUENTIAL, "gated": True}, num_key_value_heads=2),
    decoder("StableLm", SHARED, "StableLmParallel", num_key_value_heads=2, use_parallel_residual=True),
)
def test_the_stack_is_the_models_own_layers(case, tmp_path, dtype):
    check(case, tmp_path, dtype)


@cases(
    published(GPTJ, "gpt-j-6b", configs.GPT_J_6B, SHARED),
    published(CODEGEN, "codegen-350m", configs.CODEGEN_350M, SHARED),
    published(neox("", {}), "gpt-neox-20b", configs.GPT_NEOX_20B, {**SEPARATE, "activation": "gelu_tanh"}),
    published(neox("", {}), "dolly", configs.DOLLY, {**SEPARATE, "activation": "gelu_erf"}),
    published(falcon("", {}), "falcon-7b", configs.FALCON_7B, SHARED),
    published(falcon("", {}), "falcon-40b", configs.FALCON_40B, SEPARATE),
    published(falcon("", {}), "falcon-11b", configs.FALCON_11B, SHARED),
    published(falcon("", {}), "falcon-rw-1b", configs.FALCON_RW_1B, SEQUENTIAL),
    published(
        falcon("", {}), "first-falcon-7b", configs.first_falcon(configs.FALCON_7B), SHARED, configs.FALCON_7B
    ),
    published(
        falcon("", {}),
        "first-falcon-rw-1b",
        configs.first_falcon(configs.FALCON_RW_1B),
        SEQUENTIAL,
        configs.FALCON_RW_1B,
    ),
    published(decoder("Phi", {}), "phi-2", configs.PHI_2, SHARED),
    published(decoder("Cohere", {}), "command-r", configs.COMMAND_R, COHERE),
    published(decoder("Cohere2", {}), "command-r7b", configs.COMMAND_R7B, COHERE),
    published(decoder("StableLm", {}, num_key_value_heads=2), "stablelm-2-12b", configs.STABLELM_2, SHARED),
    every=2,
)
def test_configs_as_published(case, tmp_path):
    check(case, tmp_path, "float32")


@pytest.mark.parametrize(
    ("case", "changed", "expected"),
    [
        (falcon("", {}), {"new_decoder_architecture": True}, "ln_mlp.weight .24,. is missing"),
        (falcon("", {}), {"num_ln_in_parallel_attn": 2}, "num_ln_in_parallel_attn=2 do not go together"),
        (falcon("", {}), {"new_decoder_architecture": True, "parallel_attn": False}, "do not go together"),
        (falcon("", {}), {"bias": True}, "dense_h_to_4h.bias .96,. is missing"),
        (
            falcon("", {}),
            {"apply_residual_connection_post_layernorm": True},
            "post_layernorm=True is not sup",
        ),
        (falcon("", {}), {"activation": "gelu_10"}, "activation='gelu_10' is not known"),
        (falcon("", {}), {"architectures": ["RWForCausalLM"]}, "model_type='falcon' is not supported"),
        (decoder("Cohere2", {}), {"use_parallel_block": False}, "use_parallel_block=False is not supported"),
        (decoder("Cohere2", {}), {"use_gated_activation": False}, "use_gated_activation=False is not"),
        (neox("", {}), {"use_parallel_residual": "yes"}, "use_parallel_residual='yes' is not true or false"),
        (decoder("StableLm", {}, num_key_value_heads=2), {"use_parallel_residual": True}, "is not used"),
    ],
)
def test_what_is_refused(tmp_path, case, changed, expected):
    if "RWForCausalLM" in changed.get("architectures", ()):
        changed = {**changed, "n_layer": 3}
    saved_model(replace(case, changed_config=changed), tmp_path / "model", "float32")
    with pytest.raises(CheckpointError, match=expected):
        convert(tmp_path / "model", tmp_path / "checkpoint")
