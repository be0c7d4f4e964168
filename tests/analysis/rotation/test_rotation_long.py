"""transformers' own models before and after, in float64; and the memory that rotating takes."""

import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest

from trtllm_ext.analysis.rotation import rotate_folder
from trtllm_ext.checkpoint import FORMS, stack_config
from trtllm_ext.errors import ConfigError
from trtllm_ext.models import write_random_checkpoint

BUDGET_S = 1

pytestmark = pytest.mark.long

SIZES = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 50,
    "max_position_embeddings": 64,
}
GPT = {"n_embd": 24, "n_layer": 2, "n_head": 4, "vocab_size": 50, "n_positions": 64}
EXPERTS = {
    "num_experts": 4,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 24,
    "num_experts_per_tok": 2,
}
MODELS = {
    "llama": ("LlamaConfig", SIZES),
    "llama, tied": ("LlamaConfig", {**SIZES, "tie_word_embeddings": True, "attention_bias": True}),
    "mistral": ("MistralConfig", SIZES),
    "qwen2": ("Qwen2Config", {**SIZES, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", {**SIZES, "head_dim": 8}),
    "gemma": ("GemmaConfig", {**SIZES, "head_dim": 8}),
    "granite": ("GraniteConfig", {**SIZES, "embedding_multiplier": 3.0, "logits_scaling": 2.0}),
    "mixtral": ("MixtralConfig", {**SIZES, "num_local_experts": 4}),
    "qwen2 moe": ("Qwen2MoeConfig", {**SIZES, **EXPERTS}),
    "gpt-oss": ("GptOssConfig", {**SIZES, "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "gpt2": ("GPT2Config", GPT),
    "gpt-j": ("GPTJConfig", {**GPT, "rotary_dim": 4}),
    "opt": ("OPTConfig", {"hidden_size": 24, "ffn_dim": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
                          "vocab_size": 50, "max_position_embeddings": 64, "word_embed_proj_dim": 24}),
    "cohere": ("CohereConfig", SIZES),
    "nemotron": ("NemotronConfig", SIZES),
    "olmo": ("OlmoConfig", SIZES),
}  # fmt: skip
REFUSED = {
    "gemma 2": ("Gemma2Config", {**SIZES, "head_dim": 8}, "the norm of what mlp adds"),
    "olmo 2": ("Olmo2Config", SIZES, "the norm of what attention adds"),
    "bloom": (
        "BloomConfig",
        {"hidden_size": 24, "n_layer": 2, "n_head": 4, "vocab_size": 50},
        "behind embedding",
    ),
}


def saved(path, name, fields):
    """A random model in float64, its norms away from ones and zeros."""
    import torch
    import transformers

    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, name)(**fields)).double()
    with torch.no_grad():
        for key, value in model.named_parameters():
            if value.ndim == 1:
                value.copy_(
                    0.3 * torch.randn_like(value)
                    + (1 if key.endswith("weight") and "Gemma" not in name else 0)
                )
            else:
                value.copy_(torch.randn_like(value) / value.shape[-1] ** 0.5)
    model.save_pretrained(path)


@contextmanager
def without_float32():
    """transformers widens to float32 within norms and routers, whatever the model's type: here to float64."""
    import torch

    kept = torch.float32, torch.Tensor.float
    torch.float32, torch.Tensor.float = torch.float64, torch.Tensor.double
    try:
        yield
    finally:
        torch.float32, torch.Tensor.float = kept


def logits(path):
    import torch
    import transformers

    model, found = transformers.AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float64, experts_implementation="eager", output_loading_info=True
    )
    assert not any(found.values()), found
    ids = torch.arange(18).reshape(2, 9) * 7 % 50
    with torch.no_grad(), without_float32():
        return model.eval()(ids).logits.numpy()


@pytest.mark.parametrize("name", MODELS)
def test_logits_of_transformers_models_in_float64(tmp_path, name):
    saved(tmp_path / "a", *MODELS[name])
    rotate_folder(tmp_path / "a", tmp_path / "b", seed=3)
    expected = logits(tmp_path / "a")
    assert np.abs(logits(tmp_path / "b") - expected).max() <= 1e-10 * np.abs(expected).max()


@pytest.mark.parametrize("name", REFUSED)
def test_models_without_the_symmetry(tmp_path, name):
    *model, message = REFUSED[name]
    saved(tmp_path / "a", *model)
    with pytest.raises(ConfigError, match=message):
        rotate_folder(tmp_path / "a", tmp_path / "b")


_PEAK = """
import resource, sys
from trtllm_ext.cli import main
import trtllm_ext.analysis.rotation
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert main.main(sys.argv[1:]) == 0
print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_bytes(*arguments):
    """What a command has resident at most, beyond what importing takes."""
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, *arguments], capture_output=True, text=True, check=True
    )
    before, after = map(int, done.stdout.split()[-2:])
    return 1024 * (after - before)


def test_memory_is_that_of_two_matrices_whatever_the_model(tmp_path):
    hidden, ffn, layers = 1024, 8192, 14
    config = stack_config(
        FORMS["llama_swiglu"], hidden_size=hidden, ffn_hidden_size=ffn, num_hidden_layers=layers
    )
    model = write_random_checkpoint(tmp_path / "c", config)
    limit = 2 * 8 * hidden * ffn + (500 << 20)
    assert (
        model > 1.3e9 and 2 * model > 3 * limit
    )  # as a whole, and all the more in float64, it would not fit
    x = np.random.default_rng(0).normal(size=(64, hidden)).astype(np.float32)
    np.savez(tmp_path / "x.npz", hidden_states=x)
    taken = peak_bytes("stream", "rotate", "--checkpoint_dir", str(tmp_path / "c"), "--output_dir", str(tmp_path / "o"),
                       "--input", str(tmp_path / "x.npz"), "--report_dir", str(tmp_path / "r"))  # fmt: skip
    assert taken <= limit, f"{taken / 1e6:.0f} MB, allowed {limit / 1e6:.0f}"


def test_memory_of_a_folder(tmp_path):
    import torch
    import transformers

    fields = {
        **SIZES,
        "hidden_size": 1024,
        "intermediate_size": 8192,
        "num_hidden_layers": 12,
        "vocab_size": 32000,
    }
    torch.set_default_dtype(torch.bfloat16)
    try:
        config = transformers.LlamaConfig(**fields)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(
            tmp_path / "a", max_shard_size="300MB"
        )
    finally:
        torch.set_default_dtype(torch.float32)
    size = sum(path.stat().st_size for path in (tmp_path / "a").glob("*.safetensors"))
    largest = 32000 * 1024
    limit = 2 * 4 * largest + (500 << 20)
    assert 4 * size > 3 * limit
    taken = peak_bytes(
        "stream", "rotate", "--model_dir", str(tmp_path / "a"), "--output_dir", str(tmp_path / "b")
    )
    assert taken <= limit, f"{taken / 1e6:.0f} MB, allowed {limit / 1e6:.0f}"
