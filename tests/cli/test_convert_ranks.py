"""`convert --tp_size`, and the flags of TensorRT-LLM's converters beside it."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from trtllm_ext.checkpoint import load_checkpoint, load_whole
from trtllm_ext.cli import main as cli

BUDGET_S = 2

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 8,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "rms_norm_eps": 1e-5,
    "vocab_size": 10,
}
SHAPES = {
    "mlp.gate_proj.weight": (24, 8),
    "mlp.up_proj.weight": (24, 8),
    "mlp.down_proj.weight": (8, 24),
    "input_layernorm.weight": (8,),
    "post_attention_layernorm.weight": (8,),
}


@pytest.fixture
def convert(tmp_path, monkeypatch, capsys):
    """convert(name, *flags) -> (exit code, stdout, stderr) of a Llama's conversion to tmp_path / name."""
    monkeypatch.delenv("TRTLLM_EXT_TRACEBACK", raising=False)
    rng = np.random.default_rng(0)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA))
    weights = {f"model.layers.0.{n}": rng.normal(size=s).astype(np.float32) for n, s in SHAPES.items()}
    save_file(weights, folder / "model.safetensors")

    def run(name, *flags):
        code = cli.main(["convert", "--model_dir", str(folder), "--output_dir", str(tmp_path / name), *flags])
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def test_the_ranks_are_written_and_told(convert, tmp_path):
    code, told, _ = convert("whole")
    assert code == 0 and "ranks of" not in told
    flags = "--tp_size 4 --pp_size 1 --cp_size 1 --workers 8"
    code, told, _ = convert("split", *flags.split())
    assert code == 0
    size = (tmp_path / "split" / "rank0.safetensors").stat().st_size
    assert f": 4 ranks of {size / 1000:.1f} kB" in told
    whole, joined = load_checkpoint(tmp_path / "whole").weights, load_whole(tmp_path / "split").weights
    assert list(whole) == list(joined)
    for name, values in whole.items():
        np.testing.assert_array_equal(joined[name], values, err_msg=name)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            "--tp_size 5",
            "intermediate_size=24 does not split over tp_size=5; tp sizes that do for this model: 1, 2, 3",
        ),
        ("--tp_size 0", "tp_size=0 must be at least 1"),
        (
            "--pp_size 2",
            "--pp_size 2 is refused: the layers of a model are not divided among ranks. Leave it out",
        ),
        ("--cp_size 4", "--cp_size 4 is refused: the tokens of a sequence are not divided among ranks"),
    ],
)
def test_what_cannot_be_split_is_refused(convert, tmp_path, flags, message):
    code, _, told = convert("refused", *flags.split())
    assert code == 1 and message in told
    assert not (tmp_path / "refused").exists()
