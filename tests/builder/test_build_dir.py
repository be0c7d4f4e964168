"""From a checkpoint to an engine directory, and what keeps it from getting there."""

import errno
import json
import resource
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import trtllm_ext as tx
from trtllm_ext.builder import plan_build
from trtllm_ext.builder.build_config import SETTINGS
from trtllm_ext.errors import BuildError, CheckpointError, ConfigError, EngineError
from trtllm_ext.models import model_from_checkpoint, sublayer_stack_config, write_random_checkpoint

BUDGET_S = 12
HIDDEN = 64


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint")
    config = sublayer_stack_config(hidden_size=HIDDEN, ffn_hidden_size=256, num_hidden_layers=2)
    write_random_checkpoint(path, config)
    return path


@pytest.fixture(scope="module")
def engine_dir(checkpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp("engines") / "engine"
    tx.build_engine_dir(checkpoint, path, tx.BuildConfig(max_num_tokens=32, opt_num_tokens=8))
    return path


def names(path):
    return sorted(entry.name for entry in path.iterdir())


def tokens(count=3):
    return np.random.default_rng(1).normal(size=(count, HIDDEN)).astype(np.float32)


def test_the_directory(engine_dir, checkpoint):
    assert names(engine_dir) == ["config.json", "rank0.engine", "rank0.envelope.json"]
    config = json.loads((engine_dir / "config.json").read_text())
    source = json.loads((checkpoint / "config.json").read_text())
    assert config["pretrained_config"]["contract"] == source["contract"]
    assert config["build_config"]["max_num_tokens"] == 32
    envelope = json.loads((engine_dir / "rank0.envelope.json").read_text())
    assert envelope["build_id"] == config["build_id"]
    assert envelope["engine_bytes"] == (engine_dir / "rank0.engine").stat().st_size
    assert envelope["inputs"] == [
        {
            "name": "hidden_states",
            "dtype": "float32",
            "shape": [-1, HIDDEN],
            "profiles": [[[1, HIDDEN], [8, HIDDEN], [32, HIDDEN]]],
            "dim_names": ["num_tokens", "hidden_size"],
        }
    ]
    assert envelope["outputs"][0]["name"] == "hidden_states_out"


@pytest.mark.parametrize("mode", ["prepack", "mapped"])
def test_it_runs(engine_dir, mode):
    with tx.Session.from_engine_dir(engine_dir, load_mode=mode) as session:
        y = session.run({"hidden_states": tokens()})["hidden_states_out"]
    assert y.shape == (3, HIDDEN)
    assert np.isfinite(y).all()
    assert not np.allclose(y, tokens())


def test_in_memory_and_to_disk_are_the_same_engine(checkpoint, engine_dir, tmp_path):
    engine = tx.build(model_from_checkpoint(checkpoint), tx.BuildConfig(max_num_tokens=32, opt_num_tokens=8))
    engine.save(tmp_path / "engine")
    x = {"hidden_states": tokens()}
    one = tx.Session.from_serialized_engine(engine.engine).run(x)["hidden_states_out"]
    two = tx.Session.from_engine_dir(tmp_path / "engine").run(x)["hidden_states_out"]
    three = tx.Session.from_engine_dir(engine_dir).run(x)["hidden_states_out"]
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, three)


def test_engine_from_dir_and_back(engine_dir, tmp_path):
    engine = tx.Engine.from_dir(engine_dir)
    assert engine.config.build_config.max_num_tokens == 32
    engine.save(tmp_path / "copy")
    assert names(tmp_path / "copy") == names(engine_dir)
    for name in names(engine_dir):
        assert (tmp_path / "copy" / name).read_bytes() == (engine_dir / name).read_bytes()
    again = tx.Engine.from_buffer(
        (engine_dir / "rank0.engine").read_bytes(), (engine_dir / "config.json").read_text()
    )
    assert again.config == engine.config


def test_the_tokenizer_comes_along(checkpoint, tmp_path):
    import shutil

    source = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, source)
    (source / "tokenizer.json").write_text("{}")
    tx.build_engine_dir(source, tmp_path / "engine", tx.BuildConfig(max_num_tokens=8))
    assert "tokenizer.json" in names(tmp_path / "engine")
    # A build over it without one takes it away again.
    tx.build_engine_dir(checkpoint, tmp_path / "engine", tx.BuildConfig(max_num_tokens=8))
    assert "tokenizer.json" not in names(tmp_path / "engine")


def test_a_dry_run_builds_nothing(checkpoint):
    engine = tx.build(model_from_checkpoint(checkpoint), tx.BuildConfig(max_num_tokens=8, dry_run=True))
    assert engine.engine is None
    assert engine.inputs[0].profiles[0][2] == (8, HIDDEN)
    with pytest.raises(BuildError, match="dry run"):
        engine.save("nowhere")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            tx.BuildConfig(max_batch_size=4),
            "max_batch_size=4 counts sequences, which the SublayerStack has no use for",
        ),
        (tx.BuildConfig(input_timing_cache="none.cache"), "input_timing_cache='none.cache' does not exist"),
    ],
)
def test_configs_that_do_not_fit_leave_nothing(checkpoint, tmp_path, config, message):
    with pytest.raises(ConfigError) as caught:
        tx.build_engine_dir(checkpoint, tmp_path / "engine", config)
    assert message in str(caught.value)
    assert names(tmp_path) == []


def test_a_dry_run_has_no_directory(checkpoint, tmp_path):
    with pytest.raises(ConfigError, match=r"dry_run=True builds nothing.* Use plan_build"):
        tx.build_engine_dir(checkpoint, tmp_path / "engine", tx.BuildConfig(dry_run=True))
    assert names(tmp_path) == []


def test_a_build_config_is_stored_without_the_act_of_building(checkpoint, engine_dir):
    stored = json.loads((engine_dir / "config.json").read_text())["build_config"]
    assert set(SETTINGS) - set(stored) == {"dry_run", "visualize_network"}
    assert plan_build(checkpoint).config.to_dict()["build_config"].keys() == stored.keys()


def test_a_stored_build_config_can_be_given_back(checkpoint, minilm_dir, tmp_path):
    tx.convert(minilm_dir, tmp_path / "encoder")
    for source, config in (
        (checkpoint, tx.BuildConfig()),
        (checkpoint, tx.BuildConfig(max_num_tokens=32, opt_num_tokens=8)),
        (tmp_path / "encoder", tx.BuildConfig()),
        (tmp_path / "encoder", tx.BuildConfig(max_batch_size=2, max_input_len=64)),
    ):
        plan = plan_build(source, config)
        stored = plan.config.to_dict()["build_config"]
        (tmp_path / "build.json").write_text(json.dumps(stored))
        again = plan_build(source, tx.BuildConfig.from_json_file(tmp_path / "build.json"))
        assert again.ranks == plan.ranks
        assert again.config.to_dict()["build_config"] == stored


def test_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="is not a checkpoint directory"):
        tx.build_engine_dir(tmp_path / "none", tmp_path / "engine")
    assert names(tmp_path) == []


def test_the_checkpoint_is_not_overwritten(checkpoint):
    before = names(checkpoint)
    with pytest.raises(BuildError, match="is the checkpoint itself"):
        tx.build_engine_dir(checkpoint, checkpoint)
    assert names(checkpoint) == before


def test_a_directory_of_something_else_is_left_alone(checkpoint, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BuildError, match=r"holds files that are no part of an earlier engine: notes\.txt"):
        tx.build_engine_dir(checkpoint, tmp_path)
    assert names(tmp_path) == ["notes.txt"]


@pytest.mark.parametrize("files", [("config.json", "tokenizer.json"), ("tokenizer.json",), ("rank0.engine",)])
def test_a_model_folder_is_left_alone(checkpoint, tmp_path, files):
    for name in files:
        (tmp_path / name).write_text('{"model_type": "bert"}')
    with pytest.raises(BuildError) as caught:
        tx.build_engine_dir(checkpoint, tmp_path)
    assert f"holds files that are no part of an earlier engine: {', '.join(files)}. The" in str(caught.value)
    assert {name: (tmp_path / name).read_text() for name in names(tmp_path)} == dict.fromkeys(
        files, '{"model_type": "bert"}'
    )


def test_engines_and_checkpoints_do_not_replace_each_other(checkpoint, engine_dir):
    from trtllm_ext.checkpoint import write_checkpoint

    engine, source = names(engine_dir), names(checkpoint)
    with pytest.raises(BuildError, match=r"no part of an earlier engine: config\.json, rank0\.safetensors"):
        tx.Engine.from_dir(engine_dir).save(checkpoint)
    config = sublayer_stack_config(hidden_size=HIDDEN, ffn_hidden_size=256, num_hidden_layers=1)
    with pytest.raises(
        CheckpointError, match=r"no part of an earlier checkpoint: config\.json, rank0\.engine"
    ):
        write_checkpoint(engine_dir, config, lambda name, shape: [np.zeros(shape, np.float32)])
    assert (names(engine_dir), names(checkpoint)) == (engine, source)


def test_a_place_that_cannot_be_written(checkpoint):
    with pytest.raises(BuildError, match=r"cannot write /proc/engine"):
        tx.build_engine_dir(checkpoint, "/proc/engine")


def test_a_full_disk(checkpoint, tmp_path):
    """A file size limit stands in for it; the writer meets the same kind of error in the same place."""
    tx.build_engine_dir(checkpoint, tmp_path / "engine", tx.BuildConfig(max_num_tokens=4))
    before = (tmp_path / "engine" / "rank0.engine").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        with pytest.raises(BuildError, match="the disk is full, or a quota or file size limit is reached"):
            tx.build_engine_dir(checkpoint, tmp_path / "engine")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "engine" / "rank0.engine").read_bytes() == before
    assert names(tmp_path) == ["engine"]


@pytest.mark.parametrize("step", ["reading", "building"])
@pytest.mark.parametrize(
    "problem", [BrokenPipeError("nobody listens"), KeyError("mine"), KeyboardInterrupt()]
)
def test_what_the_progress_callback_raises_travels_as_itself(checkpoint, tmp_path, step, problem):
    def progress(told, done):
        if step in told and bool(done) == (step == "building"):
            raise problem

    with pytest.raises(type(problem)) as caught:
        tx.build_engine_dir(checkpoint, tmp_path / "engine", progress=progress)
    assert caught.value is problem
    assert names(tmp_path) == []


def fails_to_read(monkeypatch, name):
    """Reading a file of this name meets a bad disk; root, who runs tests in containers, may read everything."""
    from pathlib import Path

    read = Path.read_bytes

    def read_bytes(path):
        if path.name == name:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)


def test_a_source_that_cannot_be_read_is_named(checkpoint, tmp_path, monkeypatch):
    import shutil

    source = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, source)
    (source / "tokenizer.json").write_text("{}")
    (tmp_path / "timing.cache").write_bytes(b"")
    with monkeypatch.context() as patch:
        fails_to_read(patch, "tokenizer.json")
        with pytest.raises(CheckpointError) as caught:
            tx.build_engine_dir(source, tmp_path / "engine")
    assert str(caught.value) == f"{source / 'tokenizer.json'} cannot be read: Input/output error."
    config = tx.BuildConfig(input_timing_cache=str(tmp_path / "timing.cache"))
    fails_to_read(monkeypatch, "timing.cache")
    with pytest.raises(ConfigError, match=r"timing\.cache cannot be read: Input/output error\."):
        tx.build_engine_dir(source, tmp_path / "engine", config)
    assert not (tmp_path / "engine").exists()


BUILDER = textwrap.dedent("""
    import sys
    from trtllm_ext.builder import BuildConfig, build, build_engine_dir
    from trtllm_ext.errors import TrtllmExtError

    def progress(step, done):
        if "building" in step and not done and not told:
            print("building", flush=True)
            told.append(sys.stdin.readline())

    told = []

    try:
        build_engine_dir(sys.argv[1], sys.argv[2], BuildConfig(max_num_tokens=8), progress=progress)
    except TrtllmExtError as problem:
        sys.exit(str(problem))
""")


def start_build(checkpoint, output):
    """A build that says when it is in the middle, and waits for a line there."""
    return subprocess.Popen(
        [sys.executable, "-c", BUILDER, str(checkpoint), str(output)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_second_build_at_the_same_time(checkpoint, tmp_path):
    first = start_build(checkpoint, tmp_path / "engine")
    assert first.stdout.readline() == "building\n"
    with pytest.raises(
        BuildError, match=rf"another process \(pid {first.pid}\) is writing the engine in .*engine right now"
    ):
        tx.build_engine_dir(checkpoint, tmp_path / "engine")
    _, told = first.communicate("go on\n", timeout=20)
    assert first.returncode == 0, told
    assert tx.Session.from_engine_dir(tmp_path / "engine").profiles("hidden_states")[0][2] == (8, HIDDEN)
    assert names(tmp_path) == ["engine"]


def test_a_killed_build_leaves_the_earlier_engine(checkpoint, tmp_path):
    tx.build_engine_dir(checkpoint, tmp_path / "engine", tx.BuildConfig(max_num_tokens=4))
    builder = start_build(checkpoint, tmp_path / "engine")
    assert builder.stdout.readline() == "building\n"
    builder.send_signal(signal.SIGKILL)
    builder.communicate(timeout=10)
    assert tx.Session.from_engine_dir(tmp_path / "engine").profiles("hidden_states")[0][2] == (4, HIDDEN)
    tx.build_engine_dir(checkpoint, tmp_path / "engine", tx.BuildConfig(max_num_tokens=16))
    assert names(tmp_path) == ["engine"]


def test_nan_in_weights(tmp_path):
    import struct

    config = sublayer_stack_config(hidden_size=HIDDEN, ffn_hidden_size=256, num_hidden_layers=1)

    def source(name, shape):
        values = np.ones(shape, np.float32)
        values.flat[0] = np.nan if name.endswith("fc.weight") else 1
        yield values

    from trtllm_ext.checkpoint import write_checkpoint

    write_checkpoint(tmp_path / "checkpoint", config, source)
    assert struct.pack("<f", float("nan")) in (tmp_path / "checkpoint" / "rank0.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match=r"mlp\.fc\.weight holds NaN or infinity; .*--allow_nan"):
        tx.build_engine_dir(tmp_path / "checkpoint", tmp_path / "engine")
    assert not (tmp_path / "engine").exists()
    tx.build_engine_dir(tmp_path / "checkpoint", tmp_path / "engine", allow_nan=True)
    session = tx.Session.from_engine_dir(tmp_path / "engine")
    assert np.isnan(session.run({"hidden_states": tokens()})["hidden_states_out"]).any()


def test_a_build_of_what_is_no_model():
    with pytest.raises(ConfigError, match=r"a dict has no config\. For a bare Module, define a network"):
        tx.build({})


def test_damage_inside_the_engine(engine_dir, tmp_path):
    import shutil

    shutil.copytree(engine_dir, tmp_path / "engine")
    file = tmp_path / "engine" / "rank0.engine"
    data = bytearray(file.read_bytes())
    assert len(data) > 2 * 65536  # beyond what the ends of the file cover
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(EngineError, match=r"rank0\.engine is not an engine that can be loaded here: "):
        tx.Session.from_engine_dir(tmp_path / "engine")


@pytest.mark.parametrize("position", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999])
def test_any_damage_is_refused(engine_dir, tmp_path, position):
    import shutil

    shutil.copytree(engine_dir, tmp_path / "engine")
    file = tmp_path / "engine" / "rank0.engine"
    data = bytearray(file.read_bytes())
    data[int(len(data) * position)] ^= 0x10
    file.write_bytes(data)
    with pytest.raises(EngineError):
        tx.Session.from_engine_dir(tmp_path / "engine")
    # Without the envelope's first look the plan's own checks find it.
    with pytest.raises(EngineError):
        tx.Session.from_serialized_engine(bytes(data))


def test_dimensions_of_one_name_must_agree(tmp_path, minilm_dir):
    """The envelope knows the names of dimensions, so a batch of another size is refused and not broadcast."""
    tx.convert(minilm_dir, tmp_path / "checkpoint")
    tx.build_engine_dir(tmp_path / "checkpoint", tmp_path / "engine", tx.BuildConfig(max_batch_size=2))
    session = tx.Session.from_engine_dir(tmp_path / "engine", load_mode="mapped")
    ids = np.ones((2, 5), np.int32)
    with pytest.raises(
        ValueError, match="batch_size is 2 in input 'input_ids' but 1 in input 'attention_mask'"
    ):
        session.run({"input_ids": ids, "attention_mask": ids[:1], "token_type_ids": ids})
