"""`build --ffn_plugin ...`: what an engine directory keeps of it, and what is done with such a directory afterwards."""

import json
import subprocess
import sys

import numpy as np
import pytest
from onnxruntime import InferenceSession

import trtllm_ext as tx
from trtllm_ext.checkpoint.sharding import with_ranks
from trtllm_ext.cli import main as cli
from trtllm_ext.graph.plugin_config import OWN_PLUGINS
from trtllm_ext.models import sublayer_stack_config, write_random_checkpoint
from trtllm_ext.runtime import EngineDir, Rehearsal

BUDGET_S = 6
FLAGS = [each for name in OWN_PLUGINS for each in (f"--{name}", "auto")]
X = np.random.default_rng(2).normal(size=(5, 8)).astype(np.float32)

pytestmark = pytest.mark.usefixtures("one_thread")


def write_checkpoint(path, ranks=1):
    config = sublayer_stack_config(
        hidden_size=8, ffn_hidden_size=16, num_hidden_layers=2, gated=True, hidden_act="silu"
    )
    write_random_checkpoint(path, with_ranks(config, ranks), seed=3)
    return path


def build(checkpoint, output, *flags):
    paths = ["--checkpoint_dir", str(checkpoint), "--output_dir", str(output), "--max_num_tokens", "16"]
    assert cli.main(["build", *paths, *flags]) == 0
    return output


def output_of(engine):
    with tx.Session.from_engine_dir(engine) as session:
        return session.run({"hidden_states": X})["hidden_states_out"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "one")


@pytest.fixture(scope="module")
def engines(checkpoint, tmp_path_factory):
    """The same engine of plain layers and with plugins."""
    path = tmp_path_factory.mktemp("engines")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRTLLM_EXT_NUM_THREADS", "1")
        return build(checkpoint, path / "plain"), build(checkpoint, path / "plugins", *FLAGS)


def test_config_and_envelope_tell_of_them(engines):
    plain, plugins = engines
    assert EngineDir.read(plain).envelope.plugins == ()
    told = EngineDir.read(plugins).envelope.plugins
    assert {(each.name, each.version, each.namespace) for each in told} == {
        ("FeedForward", "1", "trtllm_ext"),
        ("ResidualNorm", "1", "trtllm_ext"),
    }
    config = json.loads((plugins / "config.json").read_text())
    assert config["build_config"]["plugin_config"] == dict.fromkeys(OWN_PLUGINS, "auto")
    layers = config["plugin_layers"].values()
    assert [each["name"] for each in layers] == ["ResidualNorm", "FeedForward"] * 2


def test_a_fresh_process_runs_it_with_nothing_registered(engines, tmp_path):
    plain, plugins = engines
    np.savez(tmp_path / "x.npz", hidden_states=X)
    command = [sys.executable, "-m", "trtllm_ext.cli.main", "run", "--engine_dir", str(plugins)]
    paths = ["--input", str(tmp_path / "x.npz"), "--output", str(tmp_path / "y.npz")]
    subprocess.run([*command, *paths], check=True, capture_output=True)
    with np.load(tmp_path / "y.npz") as outputs:
        assert outputs["hidden_states_out"].tobytes() == output_of(plain).tobytes()


def test_built_again_from_the_engine_it_has_them_again(engines, checkpoint, tmp_path):
    again = build(checkpoint, tmp_path / "again", "--from-engine", str(engines[1]))
    assert EngineDir.read(again).envelope.plugins == EngineDir.read(engines[1]).envelope.plugins
    without = build(
        checkpoint, tmp_path / "plain", "--from-engine", str(engines[1]), "--ffn_plugin", "disable"
    )
    assert [each.name for each in EngineDir.read(without).envelope.plugins] == [
        "ResidualNorm",
        "GatedActivation",
    ]


def test_verify_and_export_see_through_them(engines, checkpoint, tmp_path, capsys):
    paths = ["--engine_dir", str(engines[1]), "--checkpoint_dir", str(checkpoint)]
    assert cli.main(["verify", *paths]) == 0
    assert cli.main(["verify", *paths, "--bisect"]) == 0
    assert "not compared" not in capsys.readouterr().out
    files = [str(tmp_path / "plain.onnx"), str(tmp_path / "plugins.onnx")]
    for file, engine in zip(files, engines, strict=True):
        told = ["--checkpoint_dir", str(checkpoint), "--engine_dir", str(engine)]
        assert cli.main(["export", *told, "--onnx", file]) == 0
    results = [InferenceSession(file).run(None, {"hidden_states": X})[0] for file in files]
    assert results[0].tobytes() == results[1].tobytes()
    assert cli.main(["refit", *paths, "--output_dir", str(tmp_path / "filled")]) == 1  # not built for it
    assert "use_refit" in capsys.readouterr().err


def test_weights_under_a_plugin_can_be_exchanged(engines, checkpoint, tmp_path):
    engine = build(checkpoint, tmp_path / "engine", *FLAGS, "--use_refit")
    other = write_checkpoint(tmp_path / "other")
    config = sublayer_stack_config(
        hidden_size=8, ffn_hidden_size=16, num_hidden_layers=2, gated=True, hidden_act="silu"
    )
    write_random_checkpoint(other, config, seed=9)
    paths = [
        "--engine_dir",
        str(engine),
        "--checkpoint_dir",
        str(other),
        "--output_dir",
        str(tmp_path / "filled"),
    ]
    assert cli.main(["refit", *paths]) == 0
    wanted = output_of(build(other, tmp_path / "wanted"))
    got = output_of(tmp_path / "filled")
    assert abs(wanted - output_of(engines[0])).max() > 0.1
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6 * abs(wanted).max())


def test_ranks_and_workers(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "two", ranks=2)
    plain, plugins = (
        build(checkpoint, tmp_path / "plain"),
        build(checkpoint, tmp_path / "plugins", *FLAGS, "--workers", "2"),
    )
    names = {each.name for each in EngineDir.read(plugins).envelope.plugins}
    assert names == {"ResidualNorm", "GatedActivation"}  # a split feed-forward is no single plugin

    def outputs(path):
        with Rehearsal(path) as ranks:
            return [each["hidden_states_out"].tobytes() for each in ranks.run({"hidden_states": X})]

    assert outputs(plugins) == outputs(plain)


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--ffn_plugin", "on"], "plugin_config.ffn_plugin = 'on' is not known"),
        (
            ["--plugin_library", "nowhere.so"],
            "nowhere.so, the plugin library that was asked for, is not there",
        ),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_built(checkpoint, tmp_path, capsys, flags, text):
    paths = ["--checkpoint_dir", str(checkpoint), "--output_dir", str(tmp_path / "engine")]
    assert cli.main(["build", *paths, *flags]) == 1
    assert text in capsys.readouterr().err
    assert not (tmp_path / "engine").exists()
