"""Flags of `build` for TensorRT's settings, and `refit`, as a user types them."""

import json

import numpy as np
import pytest

from trtllm_ext.cli import main as cli
from trtllm_ext.models import sublayer_stack_config, write_random_checkpoint

BUDGET_S = 3

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    for seed, name in enumerate(("a", "b")):
        (folder / name).mkdir()
        config = sublayer_stack_config(hidden_size=16, ffn_hidden_size=32, num_hidden_layers=1)
        write_random_checkpoint(folder / name, config, seed=seed)
    return folder


def build(checkpoint, output, *flags):
    paths = ["--checkpoint_dir", str(checkpoint), "--output_dir", str(output)]
    return cli.main(["build", *paths, "--max_num_tokens", "8", *flags])


def stored(folder):
    return json.loads((folder / "config.json").read_text())["build_config"]


@pytest.mark.parametrize(
    ("flags", "settings"),
    [
        ("--use_refit", {"use_refit": True}),
        ("--strip_plan", {"use_strip_plan": True}),
        ("--weight_streaming --weight_sparsity", {"weight_streaming": True, "weight_sparsity": True}),
        ("--no_tf32 --version_compatible", {"tf32": False, "version_compatible": True}),
        ("--builder_optimization_level 0", {"builder_optimization_level": 0}),
        ("--hardware_compatibility_level ampere_plus", {"hardware_compatibility_level": "ampere_plus"}),
        ("--precision_constraints prefer", {"precision_constraints": "prefer"}),
        ("--force_num_profiles 1", {"force_num_profiles": 1}),
        (
            "--memory_pool_limit workspace=1GiB --memory_pool_limit tactic_dram=2MB",
            {"memory_pool_limits": {"workspace": 1 << 30, "tactic_dram": 2_000_000}},
        ),
        ("--memory_pool_limit workspace=512", {"memory_pool_limits": {"workspace": 512}}),
    ],
)
def test_flags_reach_the_config(checkpoints, tmp_path, flags, settings):
    assert build(checkpoints / "a", tmp_path / "engine", *flags.split()) == 0
    config = stored(tmp_path / "engine")
    assert {name: config[name] for name in settings} == settings


def test_flags_win_over_the_file_and_pools_add_up(checkpoints, tmp_path):
    file = tmp_path / "build.json"
    file.write_text(json.dumps({"tf32": True, "memory_pool_limits": {"workspace": 1, "tactic_dram": "2KiB"}}))
    flags = ["--build_config", str(file), "--no_tf32", "--memory_pool_limit", "workspace=3kB"]
    assert build(checkpoints / "a", tmp_path / "engine", *flags) == 0
    config = stored(tmp_path / "engine")
    assert config["memory_pool_limits"] == {"workspace": 3000, "tactic_dram": 2048}
    assert config["tf32"] is False


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            "--memory_pool_limit workspace",
            "expected POOL=SIZE such as workspace=1GiB; units are B, kB, MB, GB, KiB",
        ),
        ("--memory_pool_limit workspace=1Gib", "--memory_pool_limit workspace=1Gib: expected POOL=SIZE"),
        (
            "--memory_pool_limit workspace=1 --memory_pool_limit workspace=2",
            "--memory_pool_limit: workspace is given twice",
        ),
        ("--memory_pool_limit workspace=-1", "expected POOL=SIZE"),
        ("--memory_pool_limit worksapce=1GiB", "'worksapce' is no memory pool. Did you mean workspace"),
        (
            "--hardware_compatibility_level ampere",
            "is not known; it is one of none, ampere_plus, same_compute",
        ),
        ("--builder_optimization_level 6", "builder_optimization_level=6 is out of range"),
        (
            "--deterministic --builder_optimization_level 3",
            "deterministic=True keeps to builder_optimization_level 1",
        ),
        (
            "--force_num_profiles 2",
            "force_num_profiles=2, but the inputs declare 1 range(s). Give at most 1, or",
        ),
    ],
)
def test_what_is_refused(checkpoints, tmp_path, capsys, flags, message):
    assert build(checkpoints / "a", tmp_path / "engine", *flags.split()) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "engine").exists()


def outputs_of(engine, folder, *flags):
    x = np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32)
    np.savez(folder / "x.npz", hidden_states=x)
    files = ["--input", str(folder / "x.npz"), "--output", str(folder / "y.npz")]
    code = cli.main(["run", "--engine_dir", str(engine), *files, *flags])
    return np.load(folder / "y.npz")["hidden_states_out"] if code == 0 else None


def test_strip_refit_and_run(checkpoints, tmp_path, capsys):
    assert build(checkpoints / "a", tmp_path / "stripped", "--strip_plan") == 0
    named = f"refit --engine_dir {tmp_path / 'stripped'} --checkpoint_dir"
    assert capsys.readouterr().out.endswith(
        f"  holds no weights: next `trtllm-ext {named} {checkpoints / 'a'} --output_dir FILLED`\n"
    )
    assert cli.main(["inspect", str(tmp_path / "stripped")]) == 0
    head = capsys.readouterr().out.splitlines()[:3]
    assert head[2] == f"holds no weights: next `trtllm-ext {named} CHECKPOINT --output_dir FILLED`"
    assert build(checkpoints / "b", tmp_path / "wanted") == 0
    assert outputs_of(tmp_path / "stripped", tmp_path) is None
    assert "holds no weights" in capsys.readouterr().err
    paths = ["--engine_dir", str(tmp_path / "stripped"), "--checkpoint_dir", str(checkpoints / "b")]
    assert cli.main(["refit", *paths, "--output_dir", str(tmp_path / "filled")]) == 0
    told = capsys.readouterr()
    assert told.out.startswith(f"{tmp_path}/filled: embedded engine for cpu, ")
    assert "refit: rank 0: exchanging weights" in told.err
    np.testing.assert_array_equal(
        outputs_of(tmp_path / "filled", tmp_path), outputs_of(tmp_path / "wanted", tmp_path)
    )


def test_an_engine_that_cannot_be_refitted(checkpoints, tmp_path, capsys):
    assert build(checkpoints / "a", tmp_path / "engine") == 0
    paths = ["--engine_dir", str(tmp_path / "engine"), "--checkpoint_dir", str(checkpoints / "b")]
    assert cli.main(["refit", *paths, "--output_dir", str(tmp_path / "out")]) == 1
    assert "Build it again with use_refit" in capsys.readouterr().err


def test_weights_are_streamed_by_part(checkpoints, tmp_path, capsys):
    assert build(checkpoints / "a", tmp_path / "engine", "--weight_streaming") == 0
    assert build(checkpoints / "a", tmp_path / "plain") == 0
    wanted = outputs_of(tmp_path / "plain", tmp_path)
    np.testing.assert_array_equal(
        outputs_of(tmp_path / "engine", tmp_path, "--gpu_weights_percent", "0.2"), wanted
    )
    assert outputs_of(tmp_path / "plain", tmp_path, "--gpu_weights_percent", "0.2") is None
    assert "Build it with weight_streaming" in capsys.readouterr().err
