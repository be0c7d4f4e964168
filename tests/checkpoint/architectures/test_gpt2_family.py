"""GPT-2's line: LayerNorm before (or after) a feed-forward whose matrices are called c_fc and c_proj."""

from dataclasses import replace

import pytest
import torch
import transformers as hf
from stack_against_transformers import Case, cases, cases_in_types, check, saved_model

from trtllm_ext.checkpoint import convert
from trtllm_ext.errors import CheckpointError

BUDGET_S = 5

SIZES = {"vocab_size": 50, "n_embd": 24, "n_layer": 3, "n_head": 4, "n_positions": 16}
IN_H = {"layers": lambda model: model.transformer.h, "attention": "attn"}


def openai_layer(layer, x):
    """The layer without its attention's norm: beside an attention of zeros, the feed-forward sublayer alone."""
    layer.ln_1 = torch.nn.Identity()
    return layer(x)[0]


def gpt2(name, **changes):
    return Case(name=name, config=hf.GPT2Config(**{**SIZES, **changes}), model=hf.GPT2LMHeadModel, **IN_H)


OPENAI_GPT = Case(
    name="OpenAIGPT",
    config=hf.OpenAIGPTConfig(**SIZES),
    model=hf.OpenAIGPTLMHeadModel,
    wrap=lambda output: [output],
    call=openai_layer,
    attention_input=False,
    # Its config says 'gelu'.
    expect={"activation": "gelu_tanh", "residual.placement": "post"},
    **IN_H,
)
BIGCODE = Case(
    name="GPTBigCode",
    config=hf.GPTBigCodeConfig(**SIZES, n_inner=56),
    model=hf.GPTBigCodeForCausalLM,
    expect={"activation": "gelu_tanh"},
    **IN_H,
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
    expect={"activation": "gelu_tanh", "residual.norm.eps": 1e-3},
    **IN_H,
)


@cases_in_types(
    gpt2("GPT2"),
    gpt2("GPT2Erf", n_inner=56, activation_function="gelu", layer_norm_epsilon=1e-3),
    gpt2("GPT2WithCrossAttention", add_cross_attention=True),
    OPENAI_GPT,
    BIGCODE,
    NEO,
)
def test_the_stack_is_the_models_own_layers(case, tmp_path, dtype):
    check(case, tmp_path, dtype)


# Configs as published with the models, with small sizes.
SUMMARY = {
    "summary_activation": None,
    "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
}
PUBLISHED_GPT2 = {
    **SIZES,
    **SUMMARY,
    "activation_function": "gelu_new",
    "architectures": ["GPT2LMHeadModel"],
    "attn_pdrop": 0.1,
    "bos_token_id": 50256,
    "embd_pdrop": 0.1,
    "eos_token_id": 50256,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "model_type": "gpt2",
    "n_ctx": 16,
    "n_special": 0,
    "predict_special_tokens": True,
    "resid_pdrop": 0.1,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
}
PUBLISHED_OPENAI_GPT = {
    **SIZES,
    **SUMMARY,
    "afn": "gelu",
    "architectures": ["OpenAIGPTLMHeadModel"],
    "attn_pdrop": 0.1,
    "embd_pdrop": 0.1,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "model_type": "openai-gpt",
    "n_ctx": 16,
    "n_special": 0,
    "predict_special_tokens": True,
    "resid_pdrop": 0.1,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
}
PUBLISHED_STARCODER = {
    **SIZES,
    **SUMMARY,
    "activation_function": "gelu",
    "architectures": ["GPTBigCodeForCausalLM"],
    "attention_softmax_in_fp32": True,
    "attn_pdrop": 0.1,
    "bos_token_id": 0,
    "embd_pdrop": 0.1,
    "eos_token_id": 0,
    "inference_runner": 0,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "max_batch_size": None,
    "max_sequence_length": None,
    "model_type": "gpt_bigcode",
    "multi_query": True,
    "n_inner": 96,
    "pad_key_length": True,
    "pre_allocate_kv_cache": False,
    "resid_pdrop": 0.1,
    "scale_attention_softmax_in_fp32": True,
    "scale_attn_weights": True,
    "torch_dtype": "float32",
    "transformers_version": "4.28.1",
    "use_cache": True,
    "validate_runner_input": True,
}
PUBLISHED_GPT_NEO = {
    **SUMMARY,
    "activation_function": "gelu_new",
    "architectures": ["GPTNeoForCausalLM"],
    "attention_dropout": 0,
    "attention_layers": ["global", "local"],
    "attention_types": [[["global", "local"], 1]],
    "bos_token_id": 50256,
    "embed_dropout": 0,
    "eos_token_id": 50256,
    "gradient_checkpointing": False,
    "hidden_size": 24,
    "initializer_range": 0.02,
    "intermediate_size": None,
    "layer_norm_epsilon": 1e-05,
    "max_position_embeddings": 16,
    "model_type": "gpt_neo",
    "num_heads": 4,
    "num_layers": 2,
    "resid_dropout": 0,
    "tokenizer_class": "GPT2Tokenizer",
    "transformers_version": "4.9.0.dev0",
    "use_cache": True,
    "vocab_size": 50,
    "window_size": 8,
}


def published(case, config, **changes):
    return replace(case, config=type(case.config)(**config), whole_config=config, expect={}, **changes)


@cases(
    # GPT-2's weights are named without the model in front.
    published(gpt2("gpt2"), PUBLISHED_GPT2, model=hf.GPT2Model, layers=lambda model: model.h),
    published(OPENAI_GPT, PUBLISHED_OPENAI_GPT),
    published(BIGCODE, PUBLISHED_STARCODER),
    published(NEO, PUBLISHED_GPT_NEO),
    every=2,
)
def test_configs_as_published(case, tmp_path):
    check(case, tmp_path, "float32")


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"activation_function": "gelu_10"}, "activation_function='gelu_10' is not known"),
        ({"n_inner": 56}, r"mlp.c_fc.weight has shape \(24, 96\), the config calls for \(24, 56\)"),
        ({"n_embd": None}, "lacks n_embd"),
        ({"parallel_block": True}, "unknown field parallel_block=True"),
    ],
)
def test_what_is_refused(tmp_path, changed, expected):
    saved_model(replace(gpt2("GPT2"), changed_config=changed), tmp_path / "model", "float32")
    with pytest.raises(CheckpointError, match=expected):
        convert(tmp_path / "model", tmp_path / "checkpoint")
    assert not (tmp_path / "checkpoint").exists()


def test_attention_cannot_be_given_to_a_post_norm(tmp_path):
    saved_model(OPENAI_GPT, tmp_path / "model", "float32")
    with pytest.raises(CheckpointError, match="'post'"):
        convert(tmp_path / "model", tmp_path / "checkpoint", attention_input=True)
