"""Taps and the fusion level from the command line: build, inspect, run."""

import json

import numpy as np
import pytest

from trtllm_ext.cli import main as cli
from trtllm_ext.layers import TAP_POINTS
from trtllm_ext.models import sublayer_stack_config, write_random_checkpoint

BUDGET_S = 3

HIDDEN = 8
CONTRIBUTIONS = [f"transformer.layers.{i}.mlp.contribution" for i in range(2)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint")
    write_random_checkpoint(
        path, sublayer_stack_config(hidden_size=HIDDEN, ffn_hidden_size=16, num_hidden_layers=2)
    )
    return path


@pytest.fixture
def build(checkpoint, tmp_path, capsys):
    """build(*flags) -> exit code, what stdout and stderr said; the engine is in tmp_path / "engine"."""

    def run(*flags):
        capsys.readouterr()
        paths = ["--checkpoint_dir", str(checkpoint), "--output_dir", str(tmp_path / "engine")]
        code = cli.main(["build", *paths, "--max_num_tokens", "8", *flags])
        return code, *capsys.readouterr()

    return run


def test_taps_from_the_checkpoint_to_arrays(build, tmp_path, capsys):
    code, told, _ = build("--taps", "*.contribution", "--deterministic")
    assert code == 0
    assert f"  out  {CONTRIBUTIONS[1]} float32 (-1, {HIDDEN})" in told
    agreement = (
        "fusion level basic: with and without taps float32 outputs were tested to be the same, bit for bit"
    )
    assert f"  {agreement}\n" in told

    assert cli.main(["inspect", str(tmp_path / "engine")]) == 0
    told = capsys.readouterr().out
    heading = "taps, by the last part of their names, without its number"
    assert f"\n{heading}\n  contribution (2): {TAP_POINTS['contribution']}\n" in told
    assert f"\n{agreement}\n" in told
    assert cli.main(["inspect", str(tmp_path / "engine"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["fusion_level"] == "basic"
    assert list(report["taps"]) == CONTRIBUTIONS

    x = np.random.default_rng(0).normal(size=(3, HIDDEN)).astype(np.float32)
    np.savez(tmp_path / "in.npz", hidden_states=x)
    files = ["--input", str(tmp_path / "in.npz"), "--output", str(tmp_path / "out.npz")]
    assert cli.main(["run", "--engine_dir", str(tmp_path / "engine"), *files]) == 0
    with np.load(tmp_path / "out.npz") as got:
        assert set(got.files) == {"hidden_states_out", *CONTRIBUTIONS}
        total = x + sum(got[name] for name in CONTRIBUTIONS)
        np.testing.assert_allclose(total, got["hidden_states_out"], atol=1e-6 * np.abs(total).max())


@pytest.mark.parametrize(
    ("flags", "count"),
    [
        (["--taps", "*.after", CONTRIBUTIONS[0]], 3),
        (["--taps", "*.after", "--taps", CONTRIBUTIONS[0]], 3),
        (["--taps", "*"], 6),
        (["--enable_debug_output"], 6),
        ([], 0),
    ],
)
def test_a_dry_run_lists_them(build, tmp_path, flags, count):
    code, told, _ = build("--dry_run", *flags)
    assert code == 0
    assert told.count("  out  ") == 1 + count
    agreement = (
        "fusion level all: with and without taps float32 outputs were tested to agree within 1e-6 of the"
    )
    assert (agreement in told) == bool(count)
    assert not (tmp_path / "engine").exists()


def test_without_taps_the_level_alone_is_told(build, tmp_path, capsys):
    assert build()[0] == 0
    assert cli.main(["inspect", str(tmp_path / "engine")]) == 0
    told = capsys.readouterr().out
    assert "\nfusion level all\n" in told and "with and without taps" not in told


def test_settings_of_a_file(build, tmp_path):
    (tmp_path / "build.json").write_text(json.dumps({"taps": ["*.before"], "deterministic": True}))
    code, told, _ = build("--build_config", str(tmp_path / "build.json"))
    assert code == 0
    assert told.count(".before ") == 2 and "fusion level basic" in told


def test_a_name_that_matches_nothing(build, tmp_path):
    code, _, said = build("--taps", "transformer.layers.0.mlp.contributon")
    assert code == 1
    assert (
        "'transformer.layers.0.mlp.contributon' matches none of the 6 tensors that the SublayerStack" in said
    )
    assert f"Did you mean {CONTRIBUTIONS[0]}" in said
    assert "`trtllm-ext build --dry_run --taps '*'` lists every name." in said
    assert not (tmp_path / "engine").exists()
