"""trtllm-build builds our models; its readers and ours read each other's checkpoints and engine directories."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from references import plain

import trtllm_ext as tx
from trtllm_ext.builder import build_engine_dir
from trtllm_ext.checkpoint import load_checkpoint
from trtllm_ext.errors import CheckpointError, ConfigError
from trtllm_ext.runtime import EngineDir

ANSWERS = Path(os.environ["TENSORRT_LLM_ANSWERS"])
STACK, ENCODER = "03-llama_swiglu-float16", "encoder-float32"
OUTPUT = {STACK: "hidden_states_out", ENCODER: "sentence_embedding"}
ROOT = Path(tx.__file__).parent.parent


@pytest.fixture(scope="session")
def cls_file():
    """As docs/trtllm_build.md has a shell put it in."""
    told = subprocess.run(
        [sys.executable, "-m", "trtllm_ext.trtllm_build"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return told.stdout.strip()


@pytest.fixture
def trtllm_build(cls_file, tmp_path, monkeypatch):
    """Runs its `main` on one of the checkpoints; returns the engine directory."""
    from tensorrt_llm.commands.build import main

    monkeypatch.chdir(tmp_path)  # it leaves model.cache where it is

    def run(checkpoint, name, *more):
        arguments = ["--checkpoint_dir", str(checkpoint), "--output_dir", "engine"]
        arguments += ["--model_cls_file", cls_file, "--model_cls_name", name]
        # A CPU has no cluster to be told from its device.
        arguments += ["--cluster_key", "H100-SXM", *more]
        monkeypatch.setattr(sys, "argv", ["trtllm-build", *arguments])
        main()
        return tmp_path / "engine"

    return run


def answer(name):
    """Inputs and outputs of one of the references, inputs in their own types."""
    with np.load(ANSWERS / name / "answer.npz") as stored:
        known = dict(stored)
    inputs = {key[3:]: value for key, value in known.items() if key.startswith("in.")}
    if name == STACK:
        inputs = {key: value.astype(np.float16) for key, value in inputs.items()}
    return inputs, known[f"out.{OUTPUT[name]}"]


def close(got, expected, name):
    tolerance = 2e-3 if name == STACK else 1e-5
    np.testing.assert_allclose(plain(got), expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize(
    ("name", "kind", "limits"),
    [(STACK, "SublayerStack", ("--max_num_tokens", "64")), (ENCODER, "Encoder", ("--max_batch_size", "4"))],
)
def test_it_builds_our_models_and_our_session_runs_them(trtllm_build, name, kind, limits):
    directory = trtllm_build(ANSWERS / name, kind, *limits)
    assert sorted(each.name for each in directory.iterdir()) == ["config.json", "rank0.engine"]
    config = json.loads((directory / "config.json").read_text())
    assert config.keys() == {"version", "pretrained_config", "build_config"}
    stored = json.loads((ANSWERS / name / "config.json").read_text())
    ours = {key: value for key, value in stored.items() if key not in ("sha256", "checkpoint_id")}
    assert config["pretrained_config"] == ours
    inputs, expected = answer(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with tx.Session.from_engine_dir(directory) as session:
            close(session.run(inputs)[OUTPUT[name]], expected, name)
    read = tx.Engine.from_dir(directory)
    assert read.config.pretrained_config["contract"] == stored["contract"]
    limit = limits[0].removeprefix("--")
    assert getattr(read.config.build_config, limit) == config["build_config"][limit] == int(limits[1])
    with pytest.raises(tx.errors.EngineError, match=r"there is no rank 1"):
        EngineDir.read(directory, 1)


@pytest.mark.parametrize("name", [STACK, ENCODER])
def test_its_session_runs_our_engine(name, tmp_path):
    from tensorrt_llm._utils import torch_dtype_to_trt, trt_dtype_to_torch
    from tensorrt_llm.builder import Engine
    from tensorrt_llm.runtime import Session, TensorInfo

    import trtllm_ext.trtllm_build  # noqa: F401 - tells its readers of the architectures

    limits = {"max_num_tokens": 64} if name == STACK else {"max_batch_size": 4, "max_input_len": 12}
    build_engine_dir(ANSWERS / name, tmp_path / "engine", tx.BuildConfig(**limits))
    engine = Engine.from_dir(str(tmp_path / "engine"))
    assert engine.config.build_config.max_batch_size >= 4
    inputs, expected = answer(name)
    given = {key: torch.from_numpy(value) for key, value in inputs.items()}
    session = Session.from_serialized_engine(engine.engine)
    shapes = session.infer_shapes(
        [TensorInfo(key, torch_dtype_to_trt(value.dtype), value.shape) for key, value in given.items()]
    )
    outputs = {
        each.name: torch.empty(tuple(each.shape), dtype=trt_dtype_to_torch(each.dtype)) for each in shapes
    }
    assert session.run(given, outputs, 0)
    close(outputs[OUTPUT[name]].numpy(), expected, name)


def test_our_session_runs_what_its_builder_built():
    from tensorrt_llm import Builder, Tensor, net_guard
    from tensorrt_llm.functional import silu

    builder = Builder()
    network = builder.create_network()
    with net_guard(network):
        x = Tensor(name="x", dtype="float32", shape=[5, 4])
        silu(x).mark_output("y", "float32")
    engine = builder.build_engine(network, builder.create_builder_config(precision="float32"))
    x = np.linspace(-3, 3, 20, dtype=np.float32).reshape(5, 4)
    with tx.Session.from_serialized_engine(engine) as session:
        np.testing.assert_allclose(session.run({"x": x})["y"], x / (1 + np.exp(-x)), rtol=1e-5)


def test_checkpoints_are_read_both_ways(tmp_path):
    from tensorrt_llm.models.modeling_utils import PretrainedConfig

    from trtllm_ext.trtllm_build import SublayerStack

    config = PretrainedConfig.from_checkpoint(str(ANSWERS / STACK))
    assert (config.num_attention_heads, config.hidden_size) == (1, 16)
    model = SublayerStack.from_checkpoint(str(ANSWERS / STACK))
    model.save_checkpoint(str(tmp_path))
    read, original = load_checkpoint(tmp_path), load_checkpoint(ANSWERS / STACK)
    assert read.config == original.config and read.weights.keys() == original.weights.keys()
    for name, value in original.weights.items():
        np.testing.assert_array_equal(read.weights[name], value)


def test_debug_output_shows_what_modules_note(trtllm_build):
    directory = trtllm_build(
        ANSWERS / STACK, "SublayerStack", "--max_num_tokens", "64", "--enable_debug_output"
    )
    inputs, expected = answer(STACK)
    with np.load(ANSWERS / STACK / "answer.npz") as stored:
        taps = {key[4:] for key in stored if key.startswith("out.")}
    with tx.Session.from_engine_dir(directory) as session:
        outputs = session.run(inputs)
    assert outputs.keys() == taps
    close(outputs[OUTPUT[STACK]], expected, STACK)


def test_a_config_alone_gives_random_weights(trtllm_build, cls_file, monkeypatch):
    # No --checkpoint_dir then: the last of two values of an option counts, and a .json means a config.
    path = ANSWERS / STACK / "config.json"
    directory = trtllm_build(path, "SublayerStack", "--max_num_tokens", "64")
    inputs, expected = answer(STACK)
    with tx.Session.from_engine_dir(directory) as session:
        got = plain(session.run(inputs)[OUTPUT[STACK]])
    assert got.shape == expected.shape and np.abs(got - expected).max() > 1e-2


def test_what_is_no_model_of_ours_is_refused_by_name(trtllm_build, tmp_path):
    stored = json.loads((ANSWERS / STACK / "config.json").read_text())
    for changes, reason in (
        ({"contract": None}, "has no contract"),
        ({"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": None}}, "no model here is quantised"),
    ):
        path = tmp_path / "config.json"
        path.write_text(json.dumps({**stored, **changes}))
        with pytest.raises(ConfigError, match=reason):
            trtllm_build(path, "SublayerStack")


def test_a_damaged_checkpoint_stops_it(trtllm_build, tmp_path):
    stored = json.loads((ANSWERS / STACK / "config.json").read_text())
    copy = tmp_path / "checkpoint"
    copy.mkdir()
    (copy / "config.json").write_text(json.dumps({**stored, "hidden_size": 32}))
    (copy / "rank0.safetensors").write_bytes((ANSWERS / STACK / "rank0.safetensors").read_bytes())
    with pytest.raises((CheckpointError, ConfigError), match="sha256"):
        trtllm_build(copy, "SublayerStack")


def test_nothing_of_a_directory_without_an_envelope_is_lost_on_inspect(trtllm_build, capsys):
    from trtllm_ext.cli.main import main

    directory = trtllm_build(ANSWERS / STACK, "SublayerStack", "--max_num_tokens", "64")
    assert main(["inspect", "--engine_dir", str(directory)]) in (0, None)
    told = capsys.readouterr().out
    assert "tensorrt_llm 0.16.0" in told and "hidden_states_out" in told


@pytest.mark.parametrize(("name", "kind"), [(STACK, "SublayerStack"), (ENCODER, "Encoder")])
def test_verify_takes_its_directory(trtllm_build, capsys, name, kind):
    from trtllm_ext.cli.main import main

    directory = trtllm_build(ANSWERS / name, kind, "--max_num_tokens", "64", "--max_batch_size", "4")
    assert main(["verify", "--engine_dir", str(directory), "--checkpoint_dir", str(ANSWERS / name)]) == 0
    assert "within tolerance" in capsys.readouterr().out
