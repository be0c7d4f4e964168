"""MXFP4: every number that its blocks and scales can hold, and a whole GPT-OSS layer."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from trtllm_ext.analysis.stream_map import read_stream_map
from trtllm_ext.checkpoint import convert, load_checkpoint, load_whole
from trtllm_ext.checkpoint.convert.mxfp4 import Mxfp4Values
from trtllm_ext.errors import CheckpointError

BUDGET_S = 5

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

EXPERTS, HIDDEN, FFN = 3, 64, 32


def coded(rows, columns, seed=0):
    """Random blocks and scales of (EXPERTS, rows, columns), of numbers of about 1."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (EXPERTS, rows, columns // 32, 16), np.uint8)
    return blocks, rng.integers(122, 127, blocks.shape[:-1], np.uint8)


def transformers_values(blocks, scales, dtype):
    """As transformers decodes them: (experts, columns, rows)."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    return convert_moe_packed_tensors(torch.from_numpy(blocks), torch.from_numpy(scales), dtype=dtype)


def test_every_byte_and_scale_is_what_transformers_makes_of_it():
    blocks = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16).repeat(255, axis=1)
    scales = np.arange(255, dtype=np.uint8).reshape(1, 255, 1).repeat(16, axis=2)
    wanted = transformers_values(blocks, scales, torch.bfloat16).double().numpy().swapaxes(1, 2)
    values = Mxfp4Values("w", blocks, scales)
    got = values[:, :, :, ...]
    assert values.shape == got.shape == wanted.shape == (1, 255, 512)
    np.testing.assert_array_equal(got.astype(np.float64), wanted)
    exact = transformers_values(blocks, scales, torch.float64).numpy().swapaxes(1, 2)
    np.testing.assert_array_equal(wanted[np.isfinite(wanted)], exact[np.isfinite(wanted)])
    assert np.isnan(Mxfp4Values("w", blocks[:, :1], scales[:, :1] + np.uint8(255))[:, :, :, ...]).all()


@pytest.mark.parametrize(
    "part", [np.s_[1:2, 1:8:2, :, ...], np.s_[:, 3:4, 32:64, ...], np.s_[:, :, ::2, ...]]
)
def test_a_part_is_the_part_of_the_whole(part):
    values = Mxfp4Values("w", *coded(8, 96))
    np.testing.assert_array_equal(values[part], values[:, :, :, ...][part])


def test_codes_that_do_not_belong_together_are_refused():
    blocks, scales = coded(8, 96)
    with pytest.raises(
        CheckpointError, match=r"w_blocks of the shape \(3, 8, 3, 8\) and w_scales of \(3, 8, 3\)"
    ):
        Mxfp4Values("w", blocks[..., :8], scales)
    with pytest.raises(CheckpointError, match=r"w_scales has the type int8; MXFP4 is stored in uint8"):
        Mxfp4Values("w", blocks, scales.astype(np.int8))


@pytest.fixture
def gpt_oss(tmp_path):
    """(the folder of a model in MXFP4, the folder of the same model decoded by transformers)."""
    config = transformers.GptOssConfig(
        vocab_size=8,
        hidden_size=HIDDEN,
        intermediate_size=FFN,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        num_local_experts=EXPERTS,
        num_experts_per_tok=2,
    )
    torch.manual_seed(0)
    transformers.GptOssForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path / "plain")
    plain = load_file(tmp_path / "plain" / "model.safetensors")
    quantised = dict(plain)
    for layer in range(2):
        for name, shape in (("gate_up_proj", (2 * FFN, HIDDEN)), ("down_proj", (HIDDEN, FFN))):
            blocks, scales = coded(*shape, seed=layer)
            name = f"model.layers.{layer}.mlp.experts.{name}"
            plain[name] = _numpy(transformers_values(blocks, scales, torch.bfloat16))
            del quantised[name]
            quantised[f"{name}_blocks"], quantised[f"{name}_scales"] = blocks, scales
    folder = tmp_path / "mxfp4"
    folder.mkdir()
    fields = json.loads((tmp_path / "plain" / "config.json").read_text())
    fields["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    (folder / "config.json").write_text(json.dumps(fields))
    save_file(plain, tmp_path / "plain" / "model.safetensors")
    save_file(quantised, folder / "model.safetensors")
    return folder, tmp_path / "plain"


def _numpy(tensor):
    return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)


def test_a_coded_model_gives_the_checkpoint_of_the_decoded_one(gpt_oss, tmp_path):
    for folder, name in zip(gpt_oss, ("a", "b"), strict=True):
        report = convert(folder, tmp_path / name)
        assert report.config.dtype == "bfloat16"
    a, b = (load_checkpoint(tmp_path / name).weights for name in ("a", "b"))
    assert list(a) == list(b)
    for name, values in a.items():
        np.testing.assert_array_equal(values, b[name], err_msg=name)
    assert a["transformer.layers.1.mlp.fc.weight"].shape == (EXPERTS, FFN, HIDDEN)


def test_a_coded_models_stream_is_that_of_the_decoded_one(gpt_oss):
    coded_map, plain_map = (read_stream_map(folder) for folder in gpt_oss)
    for part, other in zip(coded_map.parts, plain_map.parts, strict=True):
        pairs = zip((*part.readers, *part.writers), (*other.readers, *other.writers), strict=True)
        for a, b in pairs:
            np.testing.assert_array_equal(a.matrix.load(), b.matrix.load(), err_msg=a.matrix.name)
    assert [writer.role for writer in coded_map.parts[2].writers] == [f"proj[{i}]" for i in range(EXPERTS)]


def test_a_coded_model_over_ranks_is_that_of_one(gpt_oss, tmp_path):
    for ranks in (1, 4):
        convert(gpt_oss[0], tmp_path / f"{ranks}", tp_size=ranks)
    whole, joined = load_checkpoint(tmp_path / "1").weights, load_whole(tmp_path / "4").weights
    assert {name: values.tobytes() for name, values in joined.items()} == {
        name: values.tobytes() for name, values in whole.items()
    }


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_coded_model_in_another_type(gpt_oss, tmp_path, dtype):
    convert(gpt_oss[0], tmp_path / "c", dtype=dtype)
    convert(gpt_oss[0], tmp_path / "bfloat16")
    got, wanted = (load_checkpoint(tmp_path / name).weights for name in ("c", "bfloat16"))
    name = "transformer.layers.0.mlp.proj.weight"
    assert got[name].dtype == dtype
    np.testing.assert_array_equal(got[name].astype(np.float32), wanted[name].astype(np.float32))


def without(folder, name):
    weights = load_file(folder / "model.safetensors")
    del weights[name]
    save_file(weights, folder / "model.safetensors")


def test_blocks_without_their_scales(gpt_oss, tmp_path):
    name = "model.layers.0.mlp.experts.down_proj_scales"
    without(gpt_oss[0], name)
    with pytest.raises(CheckpointError, match=rf"in MXFP4 lack their scales: {name} missing beside"):
        convert(gpt_oss[0], tmp_path / "c")


def test_scales_without_their_blocks(gpt_oss, tmp_path):
    without(gpt_oss[0], "model.layers.0.mlp.experts.down_proj_blocks")
    with pytest.raises(CheckpointError, match=r"experts\.down_proj_blocks \(.*\) is missing"):
        convert(gpt_oss[0], tmp_path / "c")
