"""Contracts in words: what the docs' tables and `inspect` say."""

from dataclasses import replace

import pytest

from trtllm_ext.checkpoint import FORMS, stack_config
from trtllm_ext.checkpoint.describe import (
    bias_text,
    feed_forward_formula,
    mixture_text,
    norm_text,
    residual_formula,
)

BUDGET_S = 1


@pytest.mark.parametrize(
    ("name", "formula", "residual"),
    [
        ("relu_post_norm", "proj(relu(fc(x)))", "norm(x + F(x))"),
        ("llama_swiglu", "proj(silu(fc(x)) * gate(x))", "x + F(norm(x))"),
        (
            "gpt_oss_clamped",
            "proj(quick_gelu(min(fc(x), 7)) * (clip(gate(x), 7) + 1))",
            "x + F(norm(x))",
        ),
        ("inner_norm", "proj(norm(gelu_erf(fc(x))))", "x + F(norm(x))"),
        (
            "gemma2_sandwich",
            "proj(gelu_tanh(fc(x)) * gate(x))",
            "x + post_norm(F(norm(x)))",
        ),
        ("neox_parallel_two_norms", "proj(gelu_erf(fc(x)))", "x + attention(norm_a(x)) + F(norm(x))"),
        ("granite_scaled", "proj(silu(fc(x)) * gate(x))", "x + 0.22 F(norm(x))"),
        ("tanh_gate", "proj(silu(fc(x)) * gate(x))", "x + tanh(g) F(norm(x))"),
        (
            "hyper_manifold",
            "proj(silu(fc(x)) * gate(x))",
            "4 streams, manifold hyper-connections around F(norm(x))",
        ),
    ],
)
def test_formulas(name, formula, residual):
    assert feed_forward_formula(FORMS[name]) == formula
    assert residual_formula(FORMS[name].residual) == residual


def config_of(form, attention_input):
    return stack_config(
        FORMS[form], hidden_size=8, ffn_hidden_size=8, num_hidden_layers=1, attention_input=attention_input
    )


@pytest.mark.parametrize(
    ("form", "attention_input", "formula"),
    [
        ("neox_parallel_two_norms", False, "x + F(norm(x))"),
        ("neox_parallel_two_norms", True, "x + given + F(norm(x))"),
        ("gptj_parallel", False, "x + F(norm(x))"),
        ("gptj_parallel", True, "x + given + F(norm(x))"),
        ("llama_swiglu", False, "x + F(norm(x))"),
        ("llama_swiglu", True, "x + F(norm(x)), x being the stream with given added"),
        ("bert", False, "norm(x + F(x))"),
    ],
)
def test_what_an_engine_has_of_attention(form, attention_input, formula):
    contract = config_of(form, attention_input).contract
    assert residual_formula(contract.feed_forward.residual, contract) == formula


def test_every_form_reads_differently():
    """Two forms that compute something else, in the same words, would make the words useless."""
    told = {}
    for name, form in FORMS.items():
        words = (
            feed_forward_formula(form),
            bias_text(form),
            mixture_text(form),
            residual_formula(form.residual),
            norm_text(form.residual.norm),
        )
        assert words not in told, f"{name} reads like {told[words]}"
        told[words] = name


def test_biases():
    form = FORMS["gpt2"]
    texts = {
        (fc, proj): bias_text(replace(form, fc_bias=fc, proj_bias=proj))
        for fc in (True, False)
        for proj in (True, False)
    }
    assert texts == {
        (True, True): "all",
        (False, False): "none",
        (True, False): "all but proj",
        (False, True): "proj only",
    }
