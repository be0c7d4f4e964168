"""Conversion over ranks of each kind of source layout: the ranks' parts are those of the unsharded conversion."""

import ml_dtypes
import numpy as np
import pytest
import torch
import transformers as hf
from sampling import thinned
from stack_against_transformers import TOKENS, Case, saved_model

from trtllm_ext.checkpoint import convert, expected_weights, load_checkpoint, load_whole, safetensors_writer

BUDGET_S = 8

SIZES = {
    "vocab_size": 50,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
EXPERTS = {**SIZES, "num_local_experts": 4, "num_experts_per_tok": 2}
GPT2 = {"vocab_size": 50, "n_positions": 16, "n_embd": 24, "n_layer": 2, "n_head": 4, "n_inner": 40}
T5 = {
    "vocab_size": 50,
    "d_model": 24,
    "d_kv": 8,
    "d_ff": 40,
    "num_heads": 2,
    "num_layers": 2,
    "feed_forward_proj": "gated-gelu",
}
IMAGE = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 8,
    "patch_size": 4,
}
PHI3 = Case(name="fused", config=hf.Phi3Config(**SIZES), model=hf.Phi3ForCausalLM)
SOURCES = [
    Case(name="plain", config=hf.LlamaConfig(**SIZES, mlp_bias=True), model=hf.LlamaForCausalLM),
    Case(name="transposed", config=hf.GPT2Config(**GPT2), model=hf.GPT2LMHeadModel),
    PHI3,
    Case(name="experts one by one", config=hf.MixtralConfig(**EXPERTS), model=hf.MixtralForCausalLM),
    Case(
        name="experts stacked",
        config=hf.MixtralConfig(**EXPERTS),
        model=hf.MixtralForCausalLM,
        saving={"save_original_format": False},
    ),
    Case(
        name="shared expert",
        config=hf.Qwen2MoeConfig(
            **{**SIZES, "num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 28},
            num_experts_per_tok=2,
        ),
        model=hf.Qwen2MoeForCausalLM,
    ),
    Case(
        name="interleaved",
        config=hf.GptOssConfig(**EXPERTS, head_dim=6, layer_types=["full_attention"] * 2),
        model=hf.GptOssForCausalLM,
    ),
    Case(name="encoder of two", config=hf.T5Config(**T5), model=hf.T5ForConditionalGeneration),
    Case(
        name="vision, fused",
        config=hf.Dinov2Config(**IMAGE, use_swiglu_ffn=True),
        model=hf.Dinov2Model,
    ),
]


def bits(checkpoint):
    return {name: (values.shape, values.tobytes()) for name, values in checkpoint.weights.items()}


# Sources in one piece meet fewer of the code's paths.
MANY_PIECES = [pytest.param(case, 100, id=f"{case.name}, many pieces") for case in SOURCES]
ONE_PIECE = [pytest.param(case, None, id=f"{case.name}, one piece") for case in SOURCES]


@pytest.mark.parametrize(("case", "chunk_bytes"), MANY_PIECES + thinned(ONE_PIECE))
def test_ranks_join_to_the_unsharded_conversion_bit_for_bit(case, tmp_path, monkeypatch, chunk_bytes):
    if chunk_bytes is not None:
        monkeypatch.setattr(safetensors_writer, "CHUNK_BYTES", chunk_bytes)
    saved_model(case, tmp_path / "model", "float32")
    convert(tmp_path / "model", tmp_path / "1")
    whole = load_checkpoint(tmp_path / "1")
    assert bits(load_whole(tmp_path / "1")) == bits(whole)
    for ranks in (2, 4):
        report = convert(tmp_path / "model", tmp_path / f"{ranks}", tp_size=ranks)
        assert report.config.mapping.tp_size == ranks
        joined = load_whole(tmp_path / f"{ranks}")
        assert joined.config == whole.config
        assert bits(joined) == bits(whole)
        for rank in range(ranks):
            part = load_checkpoint(tmp_path / f"{ranks}", rank=rank)
            assert {n: v.shape for n, v in part.weights.items()} == expected_weights(part.config)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_ranks_are_converted_to_another_type(tmp_path, dtype):
    saved_model(PHI3, tmp_path / "model", "float32")
    for ranks in (1, 4):
        convert(tmp_path / "model", tmp_path / f"{ranks}", dtype=dtype, tp_size=ranks)
    whole = load_whole(tmp_path / "4")
    assert bits(whole) == bits(load_checkpoint(tmp_path / "1"))
    wanted = {"bfloat16": ml_dtypes.bfloat16}.get(dtype, np.dtype(dtype))
    assert {values.dtype for values in whole.weights.values()} == {np.dtype(wanted)}


def sublayer(x, fc, gate, proj):
    inner = x @ fc.T
    return (inner / (1 + np.exp(-inner)) * (x @ gate.T)) @ proj.T


def test_each_rank_holds_matching_halves_of_a_fused_matrix(tmp_path):
    """The ranks' partial sums add up to the model's own sublayer, and with another rank's gate they do not."""
    model = saved_model(PHI3, tmp_path / "model", "float32")
    convert(tmp_path / "model", tmp_path / "checkpoint", tp_size=4)
    ranks = [load_checkpoint(tmp_path / "checkpoint", rank=rank).weights for rank in range(4)]
    fc, gate, proj = (
        [weights[f"transformer.layers.1.mlp.{name}.weight"].astype(np.float64) for weights in ranks]
        for name in ("fc", "gate", "proj")
    )
    x = np.random.default_rng(0).normal(size=(TOKENS, SIZES["hidden_size"])).astype(np.float32)
    with torch.no_grad():
        expected = model.model.layers[1].mlp(torch.from_numpy(x)).numpy()
    parts = [sublayer(x, *of_rank) for of_rank in zip(fc, gate, proj, strict=True)]
    np.testing.assert_allclose(sum(parts), expected, rtol=1e-4, atol=1e-5)
    crossed = [sublayer(x, *of_rank) for of_rank in zip(fc, gate[1:] + gate[:1], proj, strict=True)]
    assert np.abs(sum(crossed) - expected).max() > 0.1
