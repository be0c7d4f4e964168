"""gpu_weights_percent: the budget that an engine's weights get before a context is made."""

import numpy as np
import pytest
from dressed_tensorrt import dressed

import trtllm_ext as tx
import trtllm_ext.embedded as trt
from trtllm_ext.builder import BuildConfig, build_engine_dir
from trtllm_ext.checkpoint.sharding import with_ranks
from trtllm_ext.errors import EngineError, InputError
from trtllm_ext.models import sublayer_stack_config, write_random_checkpoint
from trtllm_ext.parallel import run_ranks

BUDGET_S = 2

LIMITS = {"max_num_tokens": 8, "opt_num_tokens": 4}
X = {"hidden_states": np.ones((3, 16), np.float32)}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    """One model built with weight streaming and without."""
    folder = tmp_path_factory.mktemp("engines")
    (folder / "checkpoint").mkdir()
    write_random_checkpoint(
        folder / "checkpoint", sublayer_stack_config(hidden_size=16, ffn_hidden_size=32, num_hidden_layers=1)
    )
    for name, streams in (("streams", True), ("stays", False)):
        build_engine_dir(
            folder / "checkpoint", folder / name, BuildConfig(**LIMITS, weight_streaming=streams)
        )
    return folder


@pytest.mark.parametrize("part", [0, 0.25, 1, 1.0])
def test_the_budget_is_that_part_of_the_weights(engines, part):
    with tx.Session.from_engine_dir(engines / "streams", gpu_weights_percent=part) as session:
        assert session.engine.streamable_weights_size >= 4 * 2 * 16 * 32
        assert session.engine.weight_streaming_budget_v2 == int(part * session.engine.streamable_weights_size)
        session.run(X)


def test_all_weights_are_at_hand_by_default(engines):
    with tx.Session.from_engine_dir(engines / "streams") as session:
        assert session.engine.weight_streaming_budget_v2 == session.engine.streamable_weights_size


def test_the_budget_comes_before_the_context(engines, monkeypatch):
    """TensorRT refuses one while a context lives."""
    made = []
    create = trt.ICudaEngine.create_execution_context
    monkeypatch.setattr(
        trt.ICudaEngine,
        "create_execution_context",
        lambda self, *given: made.append(self.weight_streaming_budget_v2) or create(self, *given),
    )
    with tx.Session.from_engine_dir(engines / "streams", gpu_weights_percent=0.5) as session:
        assert made == [session.engine.streamable_weights_size // 2]


def test_an_engine_that_was_given_keeps_its_budget(engines):
    plan = (engines / "streams/rank0.engine").read_bytes()
    engine = trt.Runtime(trt.Logger()).deserialize_cuda_engine(plan)
    engine.weight_streaming_budget_v2 = 7
    with tx.Session.from_engine(engine):
        assert engine.weight_streaming_budget_v2 == 7


def test_a_buffer_takes_a_budget_too(engines):
    plan = (engines / "streams/rank0.engine").read_bytes()
    with tx.Session.from_serialized_engine(plan, gpu_weights_percent=0) as session:
        assert session.engine.weight_streaming_budget_v2 == 0


def test_an_engine_without_streaming_takes_none(engines):
    with pytest.raises(
        InputError, match=r"gpu_weights_percent=0\.5 is asked for, but .*rank0\.engine streams no weights"
    ):
        tx.Session.from_engine_dir(engines / "stays", gpu_weights_percent=0.5)
    with tx.Session.from_engine_dir(engines / "stays", gpu_weights_percent=1) as session:
        session.run(X)


@pytest.mark.parametrize("part", [-0.1, 1.5, 50, "all", True, float("nan")])
def test_what_is_no_part(engines, part):
    with pytest.raises(
        InputError, match=r"is no part of the weights; give 0 \(all streamed\) to 1.*0\.25 for 25 %"
    ):
        tx.Session.from_engine_dir(engines / "streams", gpu_weights_percent=part)


def test_a_budget_that_is_not_taken_is_an_error(engines, monkeypatch):
    monkeypatch.setattr(
        trt.ICudaEngine, "weight_streaming_budget_v2", property(lambda self: 11, lambda self, given: None)
    )
    with pytest.raises(
        EngineError, match=r"keeps 11 bytes of the weights of .*rank0\.engine at hand, not the \d+ that"
    ):
        tx.Session.from_engine_dir(engines / "streams")


def test_8_6_has_no_such_thing(engines):
    with dressed("8.6.1"), tx.Session.from_engine_dir(engines / "stays") as session:
        session.run(X)
    with dressed("8.6.1"), pytest.raises(InputError, match="streams no weights"):
        tx.Session.from_engine_dir(engines / "streams", gpu_weights_percent=0.5)


def test_each_rank_has_its_budget(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    config = sublayer_stack_config(hidden_size=16, ffn_hidden_size=64, num_hidden_layers=1)
    write_random_checkpoint(tmp_path / "checkpoint", with_ranks(config, 2))
    build_engine_dir(
        tmp_path / "checkpoint", tmp_path / "engine", BuildConfig(**LIMITS, weight_streaming=True)
    )

    def budget(communicator):
        with tx.Session.from_engine_dir(
            tmp_path / "engine", communicator=communicator, gpu_weights_percent=0.5
        ) as session:
            return session.engine.weight_streaming_budget_v2 / session.engine.streamable_weights_size

    assert run_ranks(2, budget) == pytest.approx([0.5, 0.5], abs=1e-3)
