"""Mixtures of experts: each naming that their weights are saved under, and layers with and without experts."""

import json

import pytest
import transformers as hf
from safetensors.numpy import load_file, save_file
from stack_against_transformers import Case, cases_in_types, check, saved_model

from trtllm_ext.checkpoint import convert
from trtllm_ext.errors import CheckpointError

BUDGET_S = 8

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = {
    "vocab_size": 50,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
    "eos_token_id": None,
    "bos_token_id": None,
}
LOCAL = {"num_local_experts": 4}
QWEN = {"num_experts": 4, "moe_intermediate_size": 16}
QWEN2 = {**QWEN, "shared_expert_intermediate_size": 28}
STACKED = {"save_original_format": False}  # as the model holds its weights in memory

# The k-th largest router value of every token has to exceed the next by more than rounding moves it.
MARGIN = {"float32": 1e-4, "bfloat16": 0.05}


class Margins:
    """Watches a model's routers; `least` is the smallest distance between a chosen expert and one that is not."""

    def __init__(self):
        self.least, self.seen = float("inf"), 0

    def watch(self, model):
        for name, module in model.named_modules():
            if name.endswith(("mlp.gate", "mlp.router", "block_sparse_moe.router")):
                module.register_forward_hook(self._see)

    def _see(self, module, arguments, output):
        values = output[0].sort(descending=True).values
        self.least = min(self.least, (values[:, 1] - values[:, 2]).min().item())
        self.seen += 1


def mixture(name, label=None, saving=None, seed=0, expect=None, **changes):
    config = getattr(hf, f"{name}Config")(**{**SIZES, **changes})
    return Case(
        name=label or name,
        config=config,
        model=getattr(hf, f"{name}ForCausalLM"),
        saving=saving or {},
        seed=seed,
        expect=expect or {},
    )


def granite(**changes):
    case = mixture(
        "GraniteMoe", **LOCAL, residual_multiplier=0.22, expect={"residual.scale": 0.22}, **changes
    )
    case.contribution = lambda layer, output: output * 0.22
    return case


GPT_OSS = {"clamp": 1.5, "gate_offset": 1.0, "activation": "quick_gelu", "mixture.router_bias": True}


@cases_in_types(
    mixture("Mixtral", seed=5, **LOCAL, expect={"mixture.weights": "renormalized", "mixture.top_k": 2}),
    mixture("Mixtral", "MixtralStacked", STACKED, seed=5, **LOCAL),
    mixture("Qwen2Moe", seed=3, **QWEN2, expect={"mixture.weights": "softmax"}),
    mixture("Qwen2Moe", "Qwen2MoeStacked", STACKED, seed=3, **QWEN2, norm_topk_prob=True),
    mixture("Qwen3Moe", **QWEN, norm_topk_prob=True, expect={"mixture.weights": "renormalized"}),
    mixture("Qwen3Moe", "Qwen3MoeStacked", STACKED, seed=1, **QWEN, hidden_act="gelu"),
    mixture("Olmoe", num_experts=4, num_key_value_heads=4, expect={"mixture.weights": "softmax"}),
    granite(seed=1),
    granite(label="GraniteMoeStacked", saving=STACKED, seed=1),
    mixture("GptOss", **LOCAL, head_dim=8, swiglu_limit=1.5, expect=GPT_OSS),
)
def test_the_stack_is_the_models_own_layers(case, tmp_path, dtype):
    margins = Margins()
    case.prepare = margins.watch
    check(case, tmp_path, dtype)
    assert margins.seen == {"float32": 4, "bfloat16": 2}[dtype]
    assert margins.least > MARGIN[dtype], "another seed: rounding may choose another expert"


def test_layers_without_experts_are_converted_apart(tmp_path):
    changes = {"num_hidden_layers": 5, "decoder_sparse_step": 2, "mlp_only_layers": [3]}
    case = mixture("Qwen2Moe", **QWEN2, **changes)
    saved_model(case, tmp_path / "model", "float32")
    message = (
        r"layers 0:5 are not of one form \(decoder_sparse_step=2, mlp_only_layers=\[3\]\). Convert a range .* "
        r"layers='0:1' \(one feed-forward\), '1:2' \(mixture\), '2:5' \(one feed-forward\)\.$"
    )
    with pytest.raises(CheckpointError, match=message):
        convert(tmp_path / "model", tmp_path / "c")
    for layers, experts in (("1", 4), ("2:5", None)):
        config = convert(tmp_path / "model", tmp_path / "c", layers=layers).config
        mixture_of = config.contract.feed_forward.mixture
        assert (mixture_of and mixture_of.num_experts) == experts
        assert config.intermediate_size == (16 if experts else 40)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_layers_without_experts_are_the_models_own(tmp_path, dtype):
    case = mixture("Qwen3Moe", **QWEN, num_hidden_layers=3, mlp_only_layers=[1, 2])
    case.options = {"layers": "1:"}
    case.layers = lambda model: model.model.layers[1:]
    case.expect = {"mixture": None, "gated": True}
    check(case, tmp_path, dtype)


# Fields as the published models have them; the sizes are small.
_COMMON = {
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_position_embeddings": 4096,
    "output_router_logits": False,
    "rms_norm_eps": 1e-05,
    "rope_theta": 150000,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.40.0",
    "use_cache": True,
    **SIZES,
}
PUBLISHED = {
    "Mixtral": {**_COMMON, **LOCAL, "router_aux_loss_coef": 0.02, "sliding_window": None},
    "Qwen2Moe": {
        **_COMMON,
        **QWEN2,
        "decoder_sparse_step": 1,
        "max_window_layers": 21,
        "norm_topk_prob": False,
        "router_aux_loss_coef": 0.001,
        "sliding_window": 32768,
        "use_sliding_window": False,
    },
    "Qwen3Moe": {
        **_COMMON,
        **QWEN,
        "attention_bias": False,
        "decoder_sparse_step": 1,
        "head_dim": 6,
        "max_window_layers": 48,
        "mlp_only_layers": [],
        "norm_topk_prob": True,
        "rope_scaling": None,
        "router_aux_loss_coef": 0.001,
        "sliding_window": None,
        "use_sliding_window": False,
    },
    "Olmoe": {
        **_COMMON,
        "clip_qkv": None,
        "num_experts": 4,
        "norm_topk_prob": False,
        "num_key_value_heads": 4,
        "rope_scaling": None,
        "router_aux_loss_coef": 0.01,
    },
    "GraniteMoe": {
        **_COMMON,
        **LOCAL,
        "attention_bias": False,
        "attention_multiplier": 0.015625,
        "embedding_multiplier": 12.0,
        "logits_scaling": 6.0,
        "residual_multiplier": 0.22,
        "rope_scaling": None,
        "router_aux_loss_coef": 0.0,
    },
    "GptOss": {
        **_COMMON,
        **LOCAL,
        "attention_bias": True,
        "experts_per_token": 2,
        "head_dim": 8,
        "initial_context_length": 4096,
        "layer_types": ["sliding_attention", "full_attention"],
        "pad_token_id": 0,
        "rope_scaling": {"rope_type": "yarn", "factor": 32.0},
        "router_aux_loss_coef": 0.9,
        "sliding_window": 128,
        "swiglu_limit": 7.0,
    },
}

_SIZES_OF_FORMS = {*QWEN2, *LOCAL, "num_key_value_heads", "head_dim"}


def published(name, folder, **changes):
    """A model's folder with the published config in place of the one that transformers writes today."""
    fields = {**PUBLISHED[name], "architectures": [f"{name}ForCausalLM"], **changes}
    sizes = {key: value for key, value in PUBLISHED[name].items() if key in _SIZES_OF_FORMS}
    saved_model(mixture(name, **sizes), folder, "bfloat16")
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs(tmp_path, name):
    config = convert(published(name, tmp_path / "model"), tmp_path / "c").config
    assert (config.dtype, config.contract.feed_forward.mixture.top_k) == ("bfloat16", 2)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("GptOss", {"swiglu_alpha": 1.5}, r"swiglu_alpha=1.5 is not supported; expected 1.702"),
        ("GptOss", {"experts_per_token": 4}, r"experts_per_token=4 is not supported; expected 2"),
        (
            "GptOss",
            {"quantization_config": {"quant_method": "bnb"}},
            r"quant_method='bnb'; .* Dequantise this",
        ),
        ("Mixtral", {"quantization_config": {"bits": 4}}, r"quantization_config=.*Dequantise"),
        ("Mixtral", {"num_experts_per_tok": 5}, r"top_k=5 must lie between 1 and num_experts=4"),
        (
            "Qwen2Moe",
            {"num_local_experts": 3},
            r"num_experts=4 and num_local_experts=3 contradict each other",
        ),
        ("Qwen2Moe", {"num_experts": None}, r"lacks num_experts"),
        ("Qwen2Moe", {"norm_topk_prob": 1}, r"norm_topk_prob=1 is not true or false"),
        ("Qwen2Moe", {"mlp_only_layers": "0"}, r"mlp_only_layers='0' is not a list of layers' numbers"),
        ("Qwen2Moe", {"decoder_sparse_step": 0}, r"decoder_sparse_step=0 is not a positive integer"),
        (
            "Qwen2Moe",
            {"num_experts": 3},
            r"mlp.gate.weight has shape \(4, 24\), the config calls for \(3, 24\)",
        ),
    ],
)
def test_refusals(tmp_path, name, changes, message):
    with pytest.raises(CheckpointError, match=message):
        convert(published(name, tmp_path / "model", **changes), tmp_path / "c")


@pytest.mark.parametrize("saving", [{}, STACKED])
def test_what_is_missing_is_named_as_the_folder_names_it(tmp_path, saving):
    saved_model(mixture("Mixtral", saving=saving, **LOCAL), tmp_path / "model", "float32")
    path = tmp_path / "model" / "model.safetensors"
    weights = load_file(path)
    missing = "mlp.experts.down_proj" if saving else "block_sparse_moe.experts.2.w1.weight"
    del weights[f"model.layers.1.{missing}"]
    save_file(weights, path)
    with pytest.raises(
        CheckpointError, match=rf"1 problem\(s\): model\.layers\.1\.{missing} \(.*\) is missing"
    ):
        convert(tmp_path / "model", tmp_path / "c")
