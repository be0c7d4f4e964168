"""`build --from-engine`: the same engine again, from directories whose engines could not run here."""

import json
import shutil

import numpy as np
import pytest

import trtllm_ext as tx
from trtllm_ext.checkpoint.sharding import with_ranks
from trtllm_ext.cli import main as cli
from trtllm_ext.errors import EngineError
from trtllm_ext.models import sublayer_stack_config, write_random_checkpoint
from trtllm_ext.runtime import Rehearsal
from trtllm_ext.runtime.envelope import Envelope
from trtllm_ext.runtime.json_files import canonical_digest, to_json

BUDGET_S = 6
HIDDEN = 8

pytestmark = pytest.mark.usefixtures("one_thread")


def write_checkpoint(path, ranks=1, **settings):
    form = {"hidden_size": HIDDEN, "ffn_hidden_size": 16, "num_hidden_layers": 2, **settings}
    write_random_checkpoint(path, with_ranks(sublayer_stack_config(**form), ranks))
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "one")


@pytest.fixture(scope="module")
def built(checkpoint, tmp_path_factory):
    """An engine with two taps, at most 12 tokens."""
    path = tmp_path_factory.mktemp("engines") / "engine"
    config = tx.BuildConfig(max_num_tokens=12, opt_num_tokens=5, taps=("*.contribution",), deterministic=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRTLLM_EXT_NUM_THREADS", "1")
        tx.build_engine_dir(checkpoint, path, config)
    return path


@pytest.fixture
def engine(built, tmp_path):
    """A copy of it."""
    return shutil.copytree(built, tmp_path / "engine")


def again(engine, checkpoint, output, *flags):
    paths = ["--from-engine", str(engine), "--checkpoint_dir", str(checkpoint), "--output_dir", str(output)]
    return cli.main(["build", *paths, *flags])


def told_of(engine):
    """What config.json says, without what names the one build."""
    values = json.loads((engine / "config.json").read_text())
    del values["build_id"]
    return values


def outputs(engine):
    x = np.random.default_rng(0).normal(size=(3, HIDDEN)).astype(np.float32)
    with tx.Session.from_engine_dir(engine) as session:
        return session.run({"hidden_states": x})


def sealed(values):
    rest = {key: value for key, value in values.items() if key != "sha256"}
    return {**rest, "sha256": canonical_digest(rest)}


def foreign(engine, rank=0):
    """Make the envelope that of TensorRT on a GPU, and the engine itself garbage."""
    path = engine / f"rank{rank}.envelope.json"
    changes = {"engine_kind": "tensorrt", "engine_version": "10.1.0", "compute_capability": "9.0"}
    path.write_text(to_json(sealed({**json.loads(path.read_text()), **changes})))
    (engine / f"rank{rank}.engine").write_bytes(b"garbage")


def test_an_engine_of_another_library_in_its_place(engine, built, checkpoint, capsys):
    """The way out that the refusal names, as it names it; then the engine is what it was, taps included."""
    foreign(engine)
    with pytest.raises(EngineError) as caught:
        tx.Session.from_engine_dir(engine)
    command = str(caught.value).split("`")[-2].replace("CHECKPOINT", str(checkpoint)).split()
    assert command[:2] == ["trtllm-ext", "build"]
    assert cli.main(command[1:]) == 0
    assert told_of(engine) == told_of(built)
    assert (
        json.loads((engine / "config.json").read_text())["build_id"]
        != Envelope.read(built / "rank0.envelope.json").build_id
    )
    got, expected = outputs(engine), outputs(built)
    assert list(got) == list(expected)
    assert len(got) == 3
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name])


@pytest.mark.parametrize("damage", ["version 1", "a later version", "no envelope", "no text"])
def test_an_envelope_that_cannot_serve(engine, built, checkpoint, tmp_path, damage):
    path = engine / "rank0.envelope.json"
    values = json.loads(path.read_text())
    if damage == "version 1":
        later = ("version_compatible", "hardware_compatibility_level", "is_stripped", "plugins")
        values = {key: value for key, value in values.items() if key not in later}
        path.write_text(to_json(sealed({**values, "format_version": 1})))
    elif damage == "a later version":
        path.write_text(to_json(sealed({**values, "format_version": 99, "news": 1})))
    elif damage == "no envelope":
        path.unlink()
    else:
        path.write_bytes(b"\xff")
    assert again(engine, checkpoint, tmp_path / "other") == 0
    assert told_of(tmp_path / "other") == told_of(built)


def test_flags_and_the_file_win(engine, checkpoint, tmp_path):
    (tmp_path / "more.json").write_text('{"max_num_tokens": 4, "deterministic": false, "max_batch_size": 9}')
    flags = ["--build_config", str(tmp_path / "more.json"), "--taps", "*.after"]
    assert again(engine, checkpoint, tmp_path / "other", *flags) == 0
    stored = told_of(tmp_path / "other")["build_config"]
    assert (stored["max_num_tokens"], stored["opt_num_tokens"]) == (4, 4)
    assert (stored["taps"], stored["deterministic"]) == (["*.after"], False)
    assert again(engine, checkpoint, tmp_path / "flag", "--max_num_tokens", "20") == 0
    stored = told_of(tmp_path / "flag")["build_config"]
    assert (stored["max_num_tokens"], stored["opt_num_tokens"], stored["deterministic"]) == (20, 5, True)


def test_several_ranks(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", ranks=2)
    tx.build_engine_dir(checkpoint, tmp_path / "engine", tx.BuildConfig(max_num_tokens=4))
    before = told_of(tmp_path / "engine")
    for rank in range(2):
        foreign(tmp_path / "engine", rank)
    assert again(tmp_path / "engine", checkpoint, tmp_path / "engine") == 0
    assert told_of(tmp_path / "engine") == before
    envelopes = [Envelope.read(tmp_path / "engine" / f"rank{rank}.envelope.json") for rank in range(2)]
    assert [each.engine_kind for each in envelopes] == ["embedded"] * 2
    with Rehearsal(tmp_path / "engine") as ranks:
        assert ranks.run({"hidden_states": np.ones((2, HIDDEN), np.float32)})


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"hidden_act": "gelu_erf"}, "contract.feed_forward.activation is 'gelu_erf' there and "),
        ({"num_hidden_layers": 3}, "num_hidden_layers is 3 there and 2 in the engine"),
    ],
)
def test_another_model_is_refused(engine, built, tmp_path, capsys, settings, says):
    other = write_checkpoint(tmp_path / "checkpoint", **settings)
    assert again(engine, other, engine) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "is of another model than" in told
    assert says in told
    assert (engine / "rank0.engine").read_bytes() == (built / "rank0.engine").read_bytes()


@pytest.mark.parametrize("fault", ["an edited config", "two builds", "half a config", "no config"])
def test_a_config_that_cannot_be_trusted(engine, checkpoint, capsys, fault):
    """The way out is never the command that was just run."""
    path = engine / "config.json"
    values = json.loads(path.read_text())
    if fault == "an edited config":
        values["build_config"]["max_num_tokens"] = 13
    if fault == "two builds":
        values["build_id"] = "0" * 32
    path.write_text(to_json(values)[: 20 if fault == "half a config" else None])
    if fault == "no config":
        path.unlink()
    assert again(engine, checkpoint, engine) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert told.endswith("build without --from-engine, giving the flags.")
    says = {"half a config": "is not valid JSON", "no config": "has no config.json, and so no build config"}
    assert says.get(fault, "is not the file that the build wrote") in told
    assert ("build config cannot be trusted" in told) == (fault != "no config")


@pytest.mark.parametrize("damage", ["cut short", "other bytes", "no engine", "half an envelope"])
def test_a_damaged_engine_names_the_way(engine, checkpoint, damage):
    """What a session says of it names --from-engine, which then builds it."""
    path = engine / ("rank0.envelope.json" if damage == "half an envelope" else "rank0.engine")
    whole = path.read_bytes()
    path.write_bytes(bytes(len(whole)) if damage == "other bytes" else whole[: len(whole) // 2])
    if damage == "no engine":
        path.unlink()
    with pytest.raises(EngineError, match="--from-engine"):
        tx.Session.from_engine_dir(engine)
    assert again(engine, checkpoint, engine) == 0
    assert outputs(engine)


def test_timing_caches_of_another_host_are_left_out(engine, checkpoint, tmp_path):
    """Where their files are not, that is; the envelope is left out too, which knows the config's digest."""
    values = json.loads((engine / "config.json").read_text())
    (tmp_path / "here").mkdir()
    values["build_config"]["input_timing_cache"] = str(tmp_path / "gone" / "model.cache")
    values["build_config"]["output_timing_cache"] = str(tmp_path / "gone" / "model.cache")
    (engine / "config.json").write_text(to_json(values))
    (engine / "rank0.envelope.json").unlink()
    assert again(engine, checkpoint, tmp_path / "other") == 0
    stored = told_of(tmp_path / "other")["build_config"]
    assert (stored["input_timing_cache"], stored["output_timing_cache"]) == (None, "model.cache")


def test_no_engine_directory(tmp_path, checkpoint, capsys):
    assert again(checkpoint, checkpoint, tmp_path / "other") == 1
    assert "config.json without a build config: it is a checkpoint" in " ".join(
        capsys.readouterr().err.split()
    )
    assert again(tmp_path / "none", checkpoint, tmp_path / "other") == 1
    assert "does not exist; expected an engine directory" in " ".join(capsys.readouterr().err.split())
