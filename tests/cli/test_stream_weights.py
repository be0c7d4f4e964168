"""`trtllm-ext stream weights` from weights to a report, and what it refuses."""

import json

import pytest
from safetensors.numpy import load_file
from stack_forms import FFN, HIDDEN, RMS, plain, residual

from trtllm_ext.analysis.virtual_weights import cost
from trtllm_ext.checkpoint import stack_config
from trtllm_ext.cli.main import main
from trtllm_ext.models import write_random_checkpoint

BUDGET_S = 4


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "checkpoint"
    config = stack_config(
        plain(residual=residual("pre", RMS)), hidden_size=HIDDEN, ffn_hidden_size=FFN, num_hidden_layers=3
    )
    write_random_checkpoint(path, config, seed=1)
    return str(path)


def test_a_report_of_chosen_pairs(checkpoint, tmp_path, capsys):
    options = ["--pairs", "*.0.mlp.proj:*.fc", "--directions", "2", "--samples", "3", "--seed", "7"]
    out = tmp_path / "out"
    assert (
        main(["stream", "weights", "--checkpoint_dir", checkpoint, *options, "--output_dir", str(out)]) == 0
    )
    assert "0.mlp.proj" in capsys.readouterr().out
    arrays = load_file(out / "arrays.safetensors")
    assert arrays["score_over_random"].shape == (1, 2)
    assert arrays["written_1"].shape == arrays["read_0"].shape == (2, HIDDEN)
    assert json.loads((out / "report.json").read_text())
    assert {path.name for path in out.glob("*.png")} == {
        f"{name}.png" for name in ("score_over_random", "spectral_norm", "frobenius_norm")
    }


def test_an_estimate_writes_nothing(checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cost, "MEASURED_S", 0.01)
    assert main(["stream", "weights", "--checkpoint_dir", checkpoint, "--estimate"]) == 0
    told = capsys.readouterr().out
    assert "3 pairs: about" in told and "GFLOP/s" in told
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--output_dir is needed"),
        (["--output_dir", "out", "--samples", "-1"], "--samples -1 must be at least 0"),
        (["--output_dir", "out", "--seed", "-1"], "--seed -1 must be at least 0"),
        (["--output_dir", "out", "--pairs", "fc"], "is not WRITER:READER"),
        (["--output_dir", "out", "--stack", "decoder"], "leave stack='decoder' out"),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_work(checkpoint, options, message, capsys):
    assert main(["stream", "weights", "--checkpoint_dir", checkpoint, *options]) != 0
    assert message in capsys.readouterr().err
