"""Weights exchanged in engine directories: the result is the engine that was built of those weights."""

import json

import numpy as np
import pytest
from dressed_tensorrt import dressed

import trtllm_ext as tx
from trtllm_ext import backend
from trtllm_ext.builder import BuildConfig, Engine, build_engine_dir, refit_engine, refit_engine_dir
from trtllm_ext.checkpoint import load_checkpoint
from trtllm_ext.checkpoint.sharding import with_ranks
from trtllm_ext.errors import BuildError, CheckpointError, ConfigError, EngineError
from trtllm_ext.models import (
    encoder_config,
    model_from_checkpoint,
    sublayer_stack_config,
    write_random_checkpoint,
)
from trtllm_ext.runtime.engine_dir import EngineDir
from trtllm_ext.runtime.ranks.rehearsal import Rehearsal
from trtllm_ext.runtime.trt_log import recording_logger

BUDGET_S = 4

LIMITS = {"max_num_tokens": 16, "opt_num_tokens": 4}
X = {"hidden_states": np.random.default_rng(0).normal(size=(5, 32)).astype(np.float32)}

pytestmark = pytest.mark.usefixtures("one_thread")


def stack(**changes):
    sizes = {"hidden_size": 32, "ffn_hidden_size": 64, "num_hidden_layers": 2}
    return sublayer_stack_config(**{**sizes, **changes})


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Two checkpoints of one config, other weights in each."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for seed, name in enumerate(("first", "second")):
        (folder / name).mkdir()
        write_random_checkpoint(folder / name, stack(), seed=seed)
    return folder / "first", folder / "second"


@pytest.fixture(scope="module")
def wanted(checkpoints, tmp_path_factory):
    """What the engine that was built of the second checkpoint gives."""
    path = tmp_path_factory.mktemp("wanted") / "engine"
    build_engine_dir(checkpoints[1], path, BuildConfig(**LIMITS))
    return run(path)


def run(path):
    with tx.Session.from_engine_dir(path) as session:
        return session.run(X)["hidden_states_out"]


def built(checkpoint, path, **settings):
    build_engine_dir(checkpoint, path, BuildConfig(**LIMITS, **settings))
    return path


@pytest.mark.parametrize("release", [None, "8.6.1", "10.14.1.48.post1", "11.4.0.106"])
def test_refitted_is_built(checkpoints, wanted, tmp_path, release):
    first, second = checkpoints
    if release is None:
        before = run(refitted_by(first, second, tmp_path))
    else:
        with dressed(release):
            before = run(refitted_by(first, second, tmp_path))
    assert not np.allclose(before, wanted)
    np.testing.assert_array_equal(run(tmp_path / "out"), wanted)
    assert (
        EngineDir.read(tmp_path / "out").config["build_id"]
        != EngineDir.read(tmp_path / "engine").config["build_id"]
    )


def test_weights_that_nobody_named_are_no_parameters(tmp_path):
    """GELU is composed in 8.6, and a refitter there has names of its own for the constants of that."""
    config = stack(hidden_act="gelu_tanh")
    for seed, name in enumerate(("first", "second")):
        (tmp_path / name).mkdir()
        write_random_checkpoint(tmp_path / name, config, seed=seed)
    with dressed("8.6.1"):
        engine = built(tmp_path / "first", tmp_path / "engine", use_refit=True)
        with tx.Session.from_engine_dir(engine) as session:
            trt = backend.tensorrt()
            # To the test, which sees no dress, they have no name.
            assert "" in trt.Refitter(session.engine, recording_logger(trt)).get_all_weights()
        refit_engine_dir(engine, tmp_path / "second", tmp_path / "out")
        wanted = run(built(tmp_path / "second", tmp_path / "wanted", use_refit=True))
        np.testing.assert_array_equal(run(tmp_path / "out"), wanted)


def refitted_by(first, second, folder):
    engine = built(first, folder / "engine", use_refit=True)
    refit_engine_dir(engine, second, folder / "out")
    return engine


def test_a_stripped_engine_holds_no_weights_until_it_is_filled(checkpoints, wanted, tmp_path):
    first, second = checkpoints
    stripped = built(first, tmp_path / "stripped", use_strip_plan=True)
    plan = (stripped / "rank0.engine").read_bytes()
    for name, weight in load_checkpoint(first).weights.items():
        assert weight.nbytes < 64 or np.ascontiguousarray(weight).tobytes() not in plan, name
    assert EngineDir.read(stripped).envelope.is_stripped
    with pytest.raises(
        EngineError, match=r"rank0\.engine holds no weights: .*`trtllm-ext refit --engine_dir"
    ):
        run(stripped)
    with pytest.raises(EngineError, match="the engine holds no weights: it was built with use_strip_plan"):
        tx.Session.from_serialized_engine(plan)
    refit_engine_dir(stripped, second, stripped)
    np.testing.assert_array_equal(run(stripped), wanted)
    assert not EngineDir.read(stripped).envelope.is_stripped


@pytest.mark.parametrize("again", [True, False])
def test_a_filled_engine_can_be_refitted_again_if_it_was_built_so(checkpoints, wanted, tmp_path, again):
    first, second = checkpoints
    engine = built(first, tmp_path / "engine", use_strip_plan=True, use_refit=again)
    refit_engine_dir(engine, first, tmp_path / "filled")
    if again:
        refit_engine_dir(tmp_path / "filled", second, tmp_path / "other")
        np.testing.assert_array_equal(run(tmp_path / "other"), wanted)
    else:
        with pytest.raises(
            EngineError, match=r"weights cannot be exchanged: .* Build it again with use_refit"
        ):
            refit_engine_dir(tmp_path / "filled", second, tmp_path / "other")
        assert not (tmp_path / "other").exists()


def test_in_memory(checkpoints, wanted):
    first, second = checkpoints
    engine = tx.build(model_from_checkpoint(first), BuildConfig(**LIMITS, use_refit=True)).engine
    weights = {name: each.raw_value for name, each in model_from_checkpoint(second).named_parameters()}
    with tx.Session.from_serialized_engine(refit_engine(engine, weights)) as session:
        np.testing.assert_array_equal(session.run(X)["hidden_states_out"], wanted)
    del weights[next(iter(weights))]
    with pytest.raises(CheckpointError, match="asks for 1 weights that are not among those given: "):
        refit_engine(engine, weights)


def test_weights_of_another_size_are_refused_by_name(checkpoints):
    engine = tx.build(model_from_checkpoint(checkpoints[0]), BuildConfig(**LIMITS, use_refit=True)).engine
    weights = {
        name: each.raw_value for name, each in model_from_checkpoint(checkpoints[0]).named_parameters()
    }
    name = next(iter(weights))
    with pytest.raises(
        CheckpointError, match=f"the engine refuses the weights '{name}': .*1 weights of FLOAT"
    ):
        refit_engine(engine, {**weights, name: np.zeros(1, np.float32)})


def test_an_encoder_with_embeddings_in_float16(tmp_path):
    config = encoder_config(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        ffn_hidden_size=32,
        vocab_size=32,
        max_position_embeddings=8,
        dtype="float16",
    )
    for seed, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        write_random_checkpoint(tmp_path / name, config, seed=seed)
    limits = {"max_batch_size": 2, "opt_batch_size": 1, "max_input_len": 8}
    build_engine_dir(tmp_path / "a", tmp_path / "engine", BuildConfig(**limits, use_strip_plan=True))
    refit_engine_dir(tmp_path / "engine", tmp_path / "b", tmp_path / "out")
    build_engine_dir(tmp_path / "b", tmp_path / "wanted", BuildConfig(**limits))
    results = []
    for name in ("out", "wanted"):
        with tx.Session.from_engine_dir(tmp_path / name) as session:
            ids = {each.name: np.ones((2, 5), np.int32) for each in session.inputs}
            results.append(next(iter(session.run(ids).values())))
    # Weights that may change are not folded into each other, which rounds otherwise.
    np.testing.assert_allclose(results[0].astype(np.float32), results[1].astype(np.float32), atol=2e-3)
    assert np.abs(results[1]).max() > 0.1


def test_ranks_are_refitted_and_tried_together(tmp_path):
    for seed, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        write_random_checkpoint(tmp_path / name, with_ranks(stack(), 2), seed=seed)
    build_engine_dir(tmp_path / "a", tmp_path / "engine", BuildConfig(**LIMITS, use_strip_plan=True))
    assert not (tmp_path / "engine/self_test.npz").exists()
    refit_engine_dir(tmp_path / "engine", tmp_path / "b", tmp_path / "out")
    build_engine_dir(tmp_path / "b", tmp_path / "wanted", BuildConfig(**LIMITS))
    assert (tmp_path / "out/self_test.npz").exists()
    results = []
    for name in ("out", "wanted"):
        with Rehearsal(tmp_path / name) as rehearsal:
            results.append(rehearsal.run(X, same_bits=True)[0]["hidden_states_out"])
    np.testing.assert_array_equal(*results)


def test_what_cannot_be_refitted(checkpoints, tmp_path):
    first, second = checkpoints
    plain = built(first, tmp_path / "plain")
    with pytest.raises(EngineError, match="it was built without use_refit and use_strip_plan"):
        refit_engine_dir(plain, second, tmp_path / "out")
    with pytest.raises(BuildError, match="is the checkpoint itself"):
        refit_engine_dir(plain, second, second)
    (tmp_path / "wider").mkdir()
    write_random_checkpoint(tmp_path / "wider", stack(ffn_hidden_size=128))
    with pytest.raises(ConfigError, match=r"wider is of another model than .*plain was built from: config "):
        refit_engine_dir(plain, tmp_path / "wider", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_goes_wrong_while_writing_leaves_nothing(checkpoints, tmp_path):
    engine = built(checkpoints[0], tmp_path / "engine", use_refit=True)

    def stop(step, done):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        refit_engine_dir(engine, checkpoints[1], tmp_path / "out", progress=stop)
    assert not (tmp_path / "out").exists()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["engine"]


def test_a_network_without_names_has_nothing_to_exchange():
    builder = tx.Builder()
    config = builder.create_builder_config(precision="float32", use_refit=True)
    network = builder.create_network()
    with tx.net_guard(network):
        x = tx.Tensor(name="x", dtype="float32", shape=[2])
        (x + x).mark_output("y", "float32")
    with pytest.raises(BuildError, match="no named parameter whose weights could be exchanged"):
        builder.build_engine(network, config)


def test_the_directory_says_what_it_is(checkpoints, tmp_path):
    engine = built(checkpoints[0], tmp_path / "engine", use_refit=True)
    refit_engine_dir(engine, checkpoints[1], tmp_path / "out")
    old, new = (json.loads((folder / "config.json").read_text()) for folder in (engine, tmp_path / "out"))
    assert {key: old[key] for key in old if key != "build_id"} == {
        key: new[key] for key in new if key != "build_id"
    }
    assert Engine.from_dir(tmp_path / "out").config.build_config.use_refit
