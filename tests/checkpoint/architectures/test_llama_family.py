"""Llama and those who took over its layer."""

import pytest
import transformers as hf
from stack_against_transformers import Case, cases_in_types, check, saved_model

from trtllm_ext.checkpoint import convert
from trtllm_ext.errors import CheckpointError

BUDGET_S = 6

SIZES = {
    "vocab_size": 50,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def llama(name, **changes):
    config = getattr(hf, f"{name}Config")(**{**SIZES, **changes})
    return Case(name=name, config=config, model=getattr(hf, f"{name}ForCausalLM"))


GRANITE = llama("Granite", residual_multiplier=0.22)
GRANITE.contribution = lambda layer, output: output * 0.22
GRANITE.expect = {"residual.scale": 0.22}
BIASED = llama("Llama", mlp_bias=True, hidden_act="gelu", rms_norm_eps=1e-3)
BIASED.name = "LlamaBiased"
BIASED.expect = {"fc_bias": True, "proj_bias": True, "activation": "gelu_erf", "residual.norm.eps": 1e-3}


@cases_in_types(
    llama("Llama"),
    BIASED,
    llama("Mistral"),
    llama("Qwen2"),
    llama("Qwen3", head_dim=8),
    GRANITE,
    llama("Phi3", pad_token_id=0),
)
def test_the_stack_is_the_models_own_layers(case, tmp_path, dtype):
    check(case, tmp_path, dtype)


PHI3_CODE = {
    "AutoConfig": "configuration_phi3.Phi3Config",
    "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM",
}


def test_code_of_the_architectures_own_name_is_taken_at_its_word(tmp_path):
    case = llama("Phi3", pad_token_id=0)
    case.changed_config = {"auto_map": PHI3_CODE}
    check(case, tmp_path, "float32")


def test_other_code_is_refused(tmp_path):
    case = llama("Llama")
    case.changed_config = {"auto_map": {"AutoModelForCausalLM": "modeling_mine.MyLlamaForCausalLM"}}
    saved_model(case, tmp_path / "model", "float32")
    with pytest.raises(CheckpointError, match=r"auto_map names 'modeling_mine\.MyLlamaForCausalLM'"):
        convert(tmp_path / "model", tmp_path / "checkpoint")
