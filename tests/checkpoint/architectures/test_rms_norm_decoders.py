"""Decoders that differ from Llama in a norm, its place, the activation or how gate and up are stored."""

import transformers as hf
from stack_against_transformers import Case, cases_in_types, check

BUDGET_S = 6

SIZES = {
    "vocab_size": 50,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
# config.json of SmolLM3-3B, in small.
SMOLLM3_RELEASE = {
    "architectures": ["SmolLM3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "eos_token_id": 128012,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "layer_types": ["full_attention", "full_attention"],
    "max_position_embeddings": 65536,
    "max_window_layers": 28,
    "mlp_bias": False,
    "model_type": "smollm3",
    "no_rope_layer_interval": 4,
    "no_rope_layers": [1, 1],
    "pretraining_tp": 2,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 5000000.0,
    "sliding_window": None,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.54.0.dev0",
    "use_cache": False,
    "use_sliding_window": False,
    **SIZES,
}


def decoder(name, expect=None, normed=None, whole_config=None, **changes):
    """normed: the norm through which attention's output passes."""
    return Case(
        name=name,
        config=getattr(hf, f"{name}Config")(**{**SIZES, **changes}),
        model=getattr(hf, f"{name}ForCausalLM"),
        contribution=lambda layer, output: getattr(layer, normed)(output) if normed else output,
        expect=expect or {},
        whole_config=whole_config,
    )


@cases_in_types(
    decoder("SmolLM3", whole_config=SMOLLM3_RELEASE),
    decoder("SeedOss", {"fc_bias": True}, mlp_bias=True, head_dim=8),
    decoder("Ernie4_5", {"proj_bias": True}, use_bias=True),
    decoder("Helium", {"residual.norm.eps": 1e-8, "residual.norm.rounding": "after_weight"}),
    decoder("Arcee", {"activation": "squared_relu", "gated": False}),
    decoder("Glm", {"residual.norm.eps": 1.5625e-7, "residual.norm.rounding": "before_weight"}),
    decoder("Glm4", {"residual.placement": "sandwich"}, normed="post_self_attn_layernorm"),
    decoder("Exaone4", {"residual.placement": "branch"}, normed="post_attention_layernorm"),
)
def test_the_stack_is_the_models_own_layers(case, tmp_path, dtype):
    check(case, tmp_path, dtype)
