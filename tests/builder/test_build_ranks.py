"""Engines of several ranks: one directory of one build, tried together; and what keeps them from getting there."""

import json
import logging
import shutil
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from ranked_stacks import HIDDEN, LAYERS, damage, engines, names, stack_config, write_stack

import trtllm_ext as tx
from trtllm_ext.builder import plan_build
from trtllm_ext.builder.engine import EngineConfig
from trtllm_ext.builder.known_answer import known_inputs
from trtllm_ext.errors import BuildError, CheckpointError, ConfigError
from trtllm_ext.models import model_from_checkpoint
from trtllm_ext.runtime.envelope import Envelope, TensorSummary
from trtllm_ext.runtime.ranks.rehearsal import Rehearsal
from trtllm_ext.runtime.ranks.self_test import read_self_test

BUDGET_S = 6
LIMITS = tx.BuildConfig(max_num_tokens=32, opt_num_tokens=16)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_stack(tmp_path_factory.mktemp("checkpoints") / "of3", 3)


@pytest.fixture(scope="module")
def engine_dir(checkpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp("engines") / "engine"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRTLLM_EXT_NUM_THREADS", "1")
        tx.build_engine_dir(checkpoint, path, LIMITS)
    return path


def test_one_directory_of_one_build(engine_dir):
    files = [f"rank{rank}.{kind}" for rank in range(3) for kind in ("engine", "envelope.json")]
    assert names(engine_dir) == ["config.json", *files, "self_test.npz"]
    envelopes = [Envelope.read(engine_dir / f"rank{rank}.envelope.json") for rank in range(3)]
    build_id = json.loads((engine_dir / "config.json").read_text())["build_id"]
    assert [each.build_id for each in envelopes] == [build_id] * 3
    assert [each.rank for each in envelopes] == [0, 1, 2]
    assert {each.world_size for each in envelopes} == {3}
    assert len({each.config_sha256 for each in envelopes}) == 1
    assert len({each.engine_crc32 for each in envelopes}) == 3  # each has weights of its own


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_known_answer_is_that_of_the_unsharded_engine(tmp_path, dtype):
    whole, parts = write_stack(tmp_path / "c1", 1, dtype=dtype), write_stack(tmp_path / "c2", 2, dtype=dtype)
    for path in (whole, parts):
        tx.build_engine_dir(path, tmp_path / f"e{path.name}", LIMITS)
    known = read_self_test(tmp_path / "ec2", tx.Engine.from_dir(tmp_path / "ec2").config.build_id)
    assert list(known.outputs) == ["hidden_states_out"]
    assert known.inputs["hidden_states"].shape == (8, HIDDEN)
    assert known.inputs["hidden_states"].dtype == np.dtype(getattr(ml_dtypes, dtype, dtype))
    with tx.Session.from_engine_dir(tmp_path / "ec1") as session:
        expected = session.run(known.inputs)["hidden_states_out"].astype(np.float64)
    got = known.outputs["hidden_states_out"].astype(np.float64)
    allowed = {"float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}[dtype]
    assert np.abs(got - expected).max() <= allowed * np.abs(expected).max()
    assert np.abs(expected).max() > 0.1


def test_the_same_again(checkpoint, engine_dir, tmp_path):
    tx.build_engine_dir(checkpoint, tmp_path / "engine", LIMITS)
    assert engines(tmp_path / "engine") == engines(engine_dir)


def test_fewer_ranks_replace_more(engine_dir, tmp_path):
    shutil.copytree(engine_dir, tmp_path / "engine")
    tx.build_engine_dir(write_stack(tmp_path / "c", 1), tmp_path / "engine", LIMITS)
    assert names(tmp_path / "engine") == ["config.json", "rank0.engine", "rank0.envelope.json"]


def test_taps_are_no_part_of_the_known_answer(tmp_path):
    tx.build_engine_dir(
        write_stack(tmp_path / "c", 2), tmp_path / "engine", LIMITS.updated(taps=["*.contribution"])
    )
    engine = tx.Engine.from_dir(tmp_path / "engine", 1)
    assert len(engine.config.taps) == LAYERS
    assert list(read_self_test(tmp_path / "engine", engine.config.build_id).outputs) == ["hidden_states_out"]


def test_sequence_parallel(tmp_path, engine_dir):
    checkpoint = write_stack(tmp_path / "c", 3)
    asked = LIMITS.updated(sequence_parallel=True)
    tx.build_engine_dir(checkpoint, tmp_path / "engine", asked)
    assert json.loads((tmp_path / "engine/config.json").read_text())["build_config"]["sequence_parallel"]
    answers = [
        read_self_test(path, tx.Engine.from_dir(path).config.build_id).outputs["hidden_states_out"]
        for path in (tmp_path / "engine", engine_dir)
    ]
    np.testing.assert_allclose(*answers, rtol=0, atol=1e-5)
    kinds = {use.kind for use in plan_build(checkpoint, asked).ranks[1].collectives}
    assert kinds == {"all_gather", "reduce_scatter"}


def test_sequence_parallel_needs_ranks_and_a_model_made_for_it(tmp_path):
    write_stack(tmp_path / "c1", 1)
    asked = LIMITS.updated(sequence_parallel=True)
    with pytest.raises(
        ConfigError, match=r"sequence_parallel=True has no effect with one rank: .*has tp_size 2\.$"
    ):
        tx.build_engine_dir(tmp_path / "c1", tmp_path / "engine", asked)
    model = model_from_checkpoint(write_stack(tmp_path / "c2", 2), rank=1)
    with pytest.raises(ConfigError, match="asked of a SublayerStack that was made without it"):
        tx.build(model, asked)
    assert names(tmp_path) == ["c1", "c2"]


def test_a_model_made_sequence_parallel_says_so(tmp_path):
    model = model_from_checkpoint(write_stack(tmp_path / "c", 2), rank=1, sequence_parallel=True)
    engine = tx.build(model, LIMITS)
    assert engine.config.build_config.sequence_parallel
    with pytest.raises(
        BuildError, match=r"this engine is rank 1 of 2; a directory needs all ranks\. Use build_engine"
    ):
        engine.save(tmp_path / "engine")


# --- failures -------------------------------------------------------------------------------------------------


def test_a_damaged_rank_is_named(tmp_path):
    damage(write_stack(tmp_path / "c", 3), 1)
    with pytest.raises(CheckpointError, match=r"^rank 1: .*rank1\.safetensors: .* is damaged"):
        tx.build_engine_dir(tmp_path / "c", tmp_path / "engine", LIMITS)
    assert names(tmp_path) == ["c"]


def test_configs_of_ranks_must_agree(checkpoint, tmp_path, monkeypatch):
    from trtllm_ext.builder import building

    def build_rank(job, rank, tell):
        config = real(job, rank, tell)
        if rank == 2:
            config["build_config"]["max_num_tokens"] = 7
        return config

    real = building.build_rank
    monkeypatch.setattr(building, "build_rank", build_rank)
    with pytest.raises(
        BuildError,
        match=r"rank 2 would be built as another .* config build_config\.max_num_tokens is 7 there and 32",
    ):
        tx.build_engine_dir(checkpoint, tmp_path / "engine", LIMITS)
    assert names(tmp_path) == []


def test_equal_configs_agree(checkpoint):
    config = EngineConfig(stack_config(3).to_dict(), LIMITS)
    config.check_agrees(1, config.as_stored())
    with pytest.raises(BuildError, match="config build_id is"):
        config.check_agrees(1, replace(config, build_id="ab" * 16).as_stored())


def test_ranks_that_give_other_bits_fail_the_build(checkpoint, tmp_path, monkeypatch):
    def run(rehearsal, inputs):
        outputs = real(rehearsal, inputs)
        outputs[2]["hidden_states_out"] = np.nextafter(outputs[2]["hidden_states_out"], np.float32(9))
        return outputs

    real = Rehearsal.run
    monkeypatch.setattr(Rehearsal, "run", run)
    with pytest.raises(
        BuildError, match="output 'hidden_states_out' of rank 2 has other bits than that of rank 0"
    ):
        tx.build_engine_dir(checkpoint, tmp_path / "engine", LIMITS)
    assert names(tmp_path) == []


def test_the_directory_in_messages_is_the_one_that_was_asked_for(checkpoint, tmp_path, monkeypatch):
    from trtllm_ext.builder import known_answer
    from trtllm_ext.errors import EngineError

    def fail(directory, **settings):
        raise EngineError(f"{directory}/rank1.engine cannot be read.")

    monkeypatch.setattr(known_answer, "Rehearsal", fail)
    with pytest.raises(BuildError, match="their ranks do not run together: ") as caught:
        tx.build_engine_dir(checkpoint, tmp_path / "engine", LIMITS)
    assert str(caught.value).endswith(f"together: {tmp_path}/engine/rank1.engine cannot be read.")


def test_without_the_embedded_engine_no_answer_is_stored(checkpoint, tmp_path, monkeypatch, caplog):
    from trtllm_ext import backend
    from trtllm_ext.builder import building

    real = backend.choice()
    monkeypatch.setattr(backend, "choice", lambda: replace(real, engine="tensorrt"))
    jobs = building.RankJob(checkpoint, tmp_path, "engine", LIMITS, False, "ab" * 16, 3)
    config = EngineConfig(stack_config(3).to_dict(), LIMITS, build_id="ab" * 16).as_stored()
    with caplog.at_level(logging.INFO):
        building._finish(jobs, [config] * 3, lambda step, done: None)
    assert names(tmp_path) == ["config.json"]
    assert "no known answer is stored" in caplog.text


# --- the small input ------------------------------------------------------------------------------------------


def summary(name, dtype, least, opt, most, dims):
    return TensorSummary(
        name=name, dtype=dtype, shape=(-1,) * len(opt), profiles=((least, opt, most),), dim_names=dims
    )


def test_known_inputs_of_an_encoder():
    dims = ("batch_size", "input_len")
    tensors = [
        summary(name, "int32", (1, 1), (8, 64), (16, 128), dims)
        for name in ("input_ids", "attention_mask", "token_type_ids")
    ]
    made = known_inputs(tensors, {"vocab_size": 5, "type_vocab_size": 2})
    assert {value.shape for value in made.values()} == {(2, 8)}
    assert {value.dtype for value in made.values()} == {np.dtype(np.int32)}
    assert set(np.unique(made["input_ids"])) <= set(range(5))
    assert len(np.unique(made["input_ids"])) > 1
    assert set(np.unique(made["token_type_ids"])) <= {0, 1}
    assert (made["attention_mask"] == 1).all()


@pytest.mark.parametrize(
    ("least", "opt", "most", "expected"),
    [
        ((1, 4), (3, 4), (9, 4), (3, 4)),
        ((1, 64), (50, 64), (99, 64), (8, 64)),
        ((20, 4), (50, 4), (99, 4), (20, 4)),
    ],
)
def test_shapes_are_small_but_within_the_profile(least, opt, most, expected):
    tensor = summary("x", "bfloat16", least, opt, most, ("num_tokens", "hidden_size"))
    first, again = (known_inputs([tensor], {})["x"] for _ in range(2))
    assert first.shape == expected
    assert first.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(first, again)
    assert first.astype(np.float32).std() > 0.1
