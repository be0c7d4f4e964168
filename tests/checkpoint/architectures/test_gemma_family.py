"""Gemma 1, 2 and 3, VaultGemma and T5Gemma, with a vision tower and without; configs that say gelu and mean tanh."""

import pytest
import transformers as hf
from stack_against_transformers import Case, Given, cases_in_types, check, saved_model

from trtllm_ext.checkpoint import convert
from trtllm_ext.errors import CheckpointError

BUDGET_S = 8

SIZES = {
    "vocab_size": 50,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 8,
    "patch_size": 4,
}
TANH = {
    "activation": "gelu_tanh",
    "residual.norm.weight_offset": 1.0,
    "residual.norm.rounding": "after_weight",
}
SANDWICH = {**TANH, "residual.placement": "sandwich", "residual.post_norm.weight_offset": 1.0}
# config.json of the first release of gemma-2b, in small.
FIRST_RELEASE = {
    "architectures": ["GemmaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "hidden_act": "gelu",
    "hidden_activation": None,
    "initializer_range": 0.02,
    "max_position_embeddings": 8192,
    "model_type": "gemma",
    "pad_token_id": 0,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.38.0.dev0",
    "use_cache": True,
    **SIZES,
}
GEMMA2_RELEASE = {
    **FIRST_RELEASE,
    "architectures": ["Gemma2ForCausalLM"],
    "attn_logit_softcapping": 50.0,
    "cache_implementation": "hybrid",
    "final_logit_softcapping": 30.0,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "model_type": "gemma2",
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "sliding_window_size": 4096,
}
# What gemma-3-4b leaves to the defaults of its class is not in its text_config.
GEMMA3_RELEASE = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "boi_token_index": 255999,
    "eoi_token_index": 256000,
    "eos_token_id": [1, 106],
    "image_token_index": 262144,
    "initializer_range": 0.02,
    "mm_tokens_per_image": 256,
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": SIZES["hidden_size"],
        "intermediate_size": SIZES["intermediate_size"],
        "model_type": "gemma3_text",
        "num_hidden_layers": SIZES["num_hidden_layers"],
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
    "torch_dtype": "bfloat16",
    "transformers_version": "4.50.0.dev0",
    "vision_config": {**VISION, "model_type": "siglip_vision_model", "vision_use_head": False},
}


def normed(layer, output):
    return layer.post_attention_layernorm(output)


def gemma(**changes):
    config = hf.GemmaConfig(**{**SIZES, **changes})
    return Case(name="Gemma", config=config, model=hf.GemmaForCausalLM, expect=TANH, wrap=lambda x: (x, None))


def sandwich(model, config, **changes):
    return Case(
        **{"name": model, "config": config, "model": getattr(hf, model), "expect": SANDWICH, **changes},
        contribution=normed,
    )


def gemma3(model, **changes):
    config = hf.Gemma3Config(text_config=SIZES, vision_config=VISION)
    prefix = {"Gemma3Model": lambda model: model.language_model}.get(
        model, lambda model: model.model.language_model
    )
    return sandwich(model, config, layers=lambda model: prefix(model).layers, **changes)


def t5gemma(stack, contribution, **changes):
    part = {**SIZES, "dropout_rate": 0.0, "pad_token_id": 0}
    other = {**part, "num_hidden_layers": 3, "intermediate_size": 20}
    parts = {name: part if name == stack else other for name in ("encoder", "decoder")}
    return Case(
        name=f"T5Gemma-{stack}",
        config=hf.T5GemmaConfig(**parts),
        model=hf.T5GemmaForConditionalGeneration,
        layers=lambda model: getattr(model.model, stack).layers,
        options={"stack": stack},
        contribution=contribution,
        expect=SANDWICH,
        **changes,
    )


def self_and_cross_attention(layer, output):
    """A decoder layer's attention to itself gives `output`, and its attention to the encoder a third of it."""
    layer.cross_attn = Given(output[None] / 3, layer.self_attn.wrap)
    return layer.post_self_attn_layernorm(output) + layer.post_cross_attn_layernorm(output / 3)


VAULT = Case(
    name="VaultGemma",
    config=hf.VaultGemmaConfig(**SIZES),
    model=hf.VaultGemmaForCausalLM,
    call=lambda layer, x: layer(x, position_embeddings=None),
    expect={**TANH, "residual.placement": "pre"},
)
LEGACY = gemma(hidden_act="gelu")
LEGACY.name, LEGACY.whole_config = "GemmaLegacy", FIRST_RELEASE
ERF = sandwich("Gemma2Model", hf.Gemma2Config(**SIZES, hidden_activation="gelu", rms_norm_eps=1e-3))
ERF.layers = lambda model: model.layers
# Its hidden_act says otherwise, and no Gemma 2 reads that.
ERF.changed_config = {"hidden_act": "gelu_pytorch_tanh"}
ERF.expect = {"activation": "gelu_erf", "residual.norm.eps": 1e-3, "residual.post_norm.eps": 1e-3}


@cases_in_types(
    gemma(),
    LEGACY,
    sandwich("Gemma2ForCausalLM", hf.Gemma2Config(**SIZES), whole_config=GEMMA2_RELEASE),
    ERF,
    sandwich("Gemma3ForCausalLM", hf.Gemma3TextConfig(**SIZES)),
    sandwich("Gemma3TextModel", hf.Gemma3TextConfig(**SIZES), layers=lambda model: model.layers),
    gemma3("Gemma3ForConditionalGeneration", whole_config=GEMMA3_RELEASE),
    gemma3("Gemma3Model"),
    VAULT,
    t5gemma("encoder", lambda layer, output: layer.post_self_attn_layernorm(output)),
    t5gemma("decoder", self_and_cross_attention),
)
def test_the_stack_is_the_models_own_layers(case, tmp_path, dtype):
    check(case, tmp_path, dtype)


def test_two_fields_that_name_two_functions_are_refused(tmp_path):
    case = gemma()
    case.changed_config = {"hidden_act": "gelu", "hidden_activation": "gelu"}
    saved_model(case, tmp_path / "model", "float32")
    with pytest.raises(
        CheckpointError, match="hidden_activation='gelu' and hidden_act='gelu' name two functions"
    ):
        convert(tmp_path / "model", tmp_path / "checkpoint")


def test_the_vision_towers_layers_are_not_the_language_models(tmp_path):
    case = gemma3("Gemma3ForConditionalGeneration")
    saved_model(case, tmp_path / "model", "float32")
    report = convert(tmp_path / "model", tmp_path / "checkpoint")
    sources = {name for weight in report.converted for name in weight.sources}
    assert all(name.startswith("language_model.model.layers.") for name in sources), sources
    assert report.config.num_hidden_layers == SIZES["num_hidden_layers"]
    with pytest.raises(CheckpointError, match="the 2 layers of"):
        convert(tmp_path / "model", tmp_path / "other", layers="2")
