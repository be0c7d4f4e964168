"""OLMo: a norm without weights; 2 and 3: a norm on what each sublayer gives, none on what it reads."""

import transformers as hf
from stack_against_transformers import Case, cases_in_types, check

BUDGET_S = 4

SIZES = {
    "vocab_size": 50,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
BRANCH = {
    "residual.placement": "branch",
    "residual.norm.rounding": "after_weight",
    "residual.norm.eps": 1e-6,
    "activation": "silu",
    "gated": True,
}
# config.json of OLMo-2-1124-7B, in small.
OLMO2_RELEASE = {
    "architectures": ["Olmo2ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "eos_token_id": 100257,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_position_embeddings": 4096,
    "model_type": "olmo2",
    "pad_token_id": 100277,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 500000,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "transformers_version": "4.47.0",
    "use_cache": True,
    **SIZES,
}


def olmo(number, head="ForCausalLM", **changes):
    name = f"Olmo{number}"
    config = getattr(hf, f"{name}Config")(**{**SIZES, "rms_norm_eps": 1e-6, **changes})
    return Case(
        name=name + head,
        config=config,
        model=getattr(hf, name + head),
        contribution=lambda layer, output: layer.post_attention_layernorm(output),
        expect=BRANCH,
    )


FIRST = Case(name="Olmo", config=hf.OlmoConfig(**SIZES), model=hf.OlmoForCausalLM)
FIRST.expect = {"residual.placement": "pre", "residual.norm.weight": False, "residual.norm.eps": 1e-5}
BASE = olmo(2, "Model", hidden_act="gelu", rms_norm_eps=1e-3)
BASE.layers = lambda model: model.layers
BASE.expect = {"residual.norm.eps": 1e-3, "activation": "gelu_erf"}
RELEASE = olmo(2)
RELEASE.name, RELEASE.whole_config = "Olmo2Release", OLMO2_RELEASE


@cases_in_types(FIRST, olmo(2), BASE, RELEASE, olmo(3))
def test_the_stack_is_the_models_own_layers(case, tmp_path, dtype):
    check(case, tmp_path, dtype)
