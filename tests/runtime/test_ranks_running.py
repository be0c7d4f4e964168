"""Runs of several ranks: inputs that do not fit are an error on every rank, after which the session goes on."""

from collections import OrderedDict

import numpy as np
import pytest
from ranked_engines import Wrapped, expected, rank_engine, tokens
from small_engines import HIDDEN, build, packed
from sublayer_formulas import DTYPES

import trtllm_ext as tx
from trtllm_ext.errors import EngineError, InputError, RankError
from trtllm_ext.graph import functional
from trtllm_ext.parallel import run_ranks

BUDGET_S = 5

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def two():
    return [rank_engine(rank, 2) for rank in range(2)]


def on_two(engines, work, size=2):
    """work(session, rank) on each rank, with a session of its own."""

    def run(end):
        with tx.Session.from_serialized_engine(engines[end.rank], communicator=end) as session:
            return work(session, end.rank)

    return run_ranks(size, run, timeout=5.0)


def caught(function, kind):
    with pytest.raises(kind) as problem:
        function()
    return str(problem.value)


def check_runs(session, count=4, seed=2):
    x = tokens(count, seed)
    np.testing.assert_allclose(session.run({"x": x})["y"], expected(x), rtol=1e-5, atol=1e-5)


def test_shapes_that_differ(two):
    def work(session, rank):
        text = caught(lambda: session.run({"x": tokens(3 + rank)}), InputError)
        check_runs(session)
        return text

    texts = on_two(two, work)
    assert texts[0] == texts[1]
    assert (
        f"'x' differs between ranks: shape (3, {HIDDEN}) on rank 0; shape (4, {HIDDEN}) on rank 1" in texts[0]
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"x": tokens(17)},
        {"x": tokens(2).astype(np.float64)},
        {},
        {"x": tokens(2), "z": tokens(2)},
        "not a dict",
        {"x": None},
    ],
    ids=["too long", "type", "missing", "unknown", "no dict", "None"],
)
def test_an_input_that_one_rank_refuses(two, wrong):
    def work(session, rank):
        check_runs(session)
        given = wrong if rank else {"x": tokens(2)}
        text = caught(lambda: session.run(given), InputError if rank else RankError)
        check_runs(session)
        check_runs(session, 7)
        return text

    told, own = on_two(two, work)
    assert not own.startswith("rank")
    assert told.startswith("nothing was run")
    assert f"rank 1: {own}" in told


def test_all_ranks_refuse(two):
    texts = on_two(two, lambda session, rank: caught(lambda: session.run({}), InputError))
    assert all("'x' is missing" in text for text in texts)


def test_an_output_that_does_not_fit_on_one_rank(two):
    def work(session, rank):
        x = tokens(3)
        y = np.empty((3 + rank, HIDDEN), np.float32)
        caught(lambda: session.run({"x": x}, {"y": y}), InputError if rank else RankError)
        y = np.empty((3, HIDDEN), np.float32)
        assert session.run({"x": x}, {"y": y})["y"] is y
        np.testing.assert_allclose(y, expected(x), rtol=1e-5, atol=1e-5)

    on_two(two, work)


def test_a_session_that_one_rank_has_closed(two):
    def work(session, rank):
        if rank:
            session.close()
        return caught(lambda: session.run({"x": tokens(2)}), EngineError if rank else RankError)

    told, _ = on_two(two, work)
    assert "rank 1: this session is closed." in told


def test_sessions_in_another_order(two):
    def run(end):
        sessions = [tx.Session.from_serialized_engine(two[end.rank], communicator=end) for _ in range(2)]
        sessions[0].run({"x": tokens(2)})
        return caught(lambda: sessions[end.rank].run({"x": tokens(2)}), RankError)

    texts = run_ranks(2, run, timeout=5.0)
    assert texts[0] == texts[1]
    assert "rank 1 is at run 1, rank 0 is at run 2" in texts[0]
    assert "the same sessions in the same order" in texts[0]


def test_a_rank_that_never_comes(two):
    def run(end):
        session = tx.Session.from_serialized_engine(two[end.rank], communicator=end)
        return None if end.rank else caught(lambda: session.run({"x": tokens(2)}), RankError)

    told = run_ranks(2, run, timeout=0.5)[0]
    assert "rank 1" in told
    assert "the start of Session.run (do all ranks make the same calls?): all_gather of 4 int64" in told


def test_other_operations_are_not_told_as_the_start_of_a_run(two):
    def run(end):
        with tx.Session.from_serialized_engine(two[end.rank], communicator=end) as session:
            check_runs(session)
        return None if end.rank else caught(lambda: end.exchange(None), RankError)

    assert "Session.run" not in run_ranks(2, run, timeout=0.5)[0]


@pytest.fixture(scope="module")
def lookup():
    """Rows of a table at `ids`, summed over two ranks: an index that is too large fails while running."""
    table = np.arange(8 * HIDDEN, dtype=np.float32).reshape(8, HIDDEN)

    def define():
        ids = tx.Tensor(name="ids", dtype="int32", shape=[-1], dim_range=OrderedDict(num_tokens=[[1, 4, 16]]))
        rows = functional.embedding(ids, functional.constant(table))
        functional.allreduce(rows, [0, 1]).mark_output("y", "float32")

    return bytes(memoryview(build(define))), table


def test_a_rank_that_fails_while_running(lookup):
    engine, table = lookup
    ids = np.array([0, 3, 7], np.int32)

    def work(session, rank):
        np.testing.assert_array_equal(session.run({"ids": ids})["y"], 2 * table[ids])
        bad = np.array([0, 99 if rank else 3, 7], np.int32)
        text = caught(lambda: session.run({"ids": bad}, check=False), EngineError if rank else RankError)
        # Ranks that have parted in the middle of a run do not find together again.
        caught(lambda: session.run({"ids": ids}), RankError)
        return text

    told, own = on_two([engine, engine], work)
    assert "was given the index 99" in own
    assert "rank 1 failed" in told
    assert own in told


def test_shape_values_must_agree():
    """The value of a shape input decides shapes, so it is compared as they are."""
    from trtllm_ext import backend

    trt = backend.tensorrt()
    builder = tx.Builder()
    network = builder.create_network()
    with tx.net_guard(network):
        x = packed()
        lengths = network.trt_network.add_input("lengths", trt.int64, (2,))
        shuffle = network.trt_network.add_shuffle(functional.allreduce(x, [0, 1]).trt_tensor)
        shuffle.set_input(1, lengths)
        shuffle.get_output(0).name = "y"
        network.trt_network.mark_output(shuffle.get_output(0))
    config = builder.create_builder_config(precision="float32")
    profile = builder.trt_builder.create_optimization_profile()
    profile.set_shape("x", (1, HIDDEN), (4, HIDDEN), (16, HIDDEN))
    profile.set_shape_input("lengths", (1, 1), (4, HIDDEN), (128, 128))
    config.trt_builder_config.add_optimization_profile(profile)
    trt_config = config.trt_builder_config
    engine = bytes(memoryview(builder.trt_builder.build_serialized_network(network.trt_network, trt_config)))

    def work(session, rank):
        x = tokens(2)
        same = np.array([HIDDEN, 2], np.int64)
        np.testing.assert_array_equal(session.run({"x": x, "lengths": same})["y"], 2 * x.reshape(HIDDEN, 2))
        other = same if rank else np.array([2, HIDDEN], np.int64)
        return caught(lambda: session.run({"x": x, "lengths": other}), InputError)

    texts = on_two([engine, engine], work)
    assert texts[0] == texts[1]
    assert f"value [2, {HIDDEN}] on rank 0" in texts[0]


def values_of(kind, shape, seed):
    return np.random.default_rng(seed).normal(size=shape).astype(DTYPES[kind])


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_values_that_differ(kind, library):
    """Two inputs, of which the last element of the second differs on rank 1."""

    def define():
        x, y = packed(dtype=kind), packed("other", kind)
        functional.allreduce(x + y, [0, 1]).mark_output("z")

    def given(rank):
        x, other = (values_of(kind, (3, HIDDEN), seed) for seed in (1, 2))
        other.reshape(-1)[-1] += rank
        if library == "numpy":
            return {"x": x, "other": other}
        torch = pytest.importorskip("torch")
        return {
            name: torch.from_numpy(each.astype(np.float32)).to(getattr(torch, kind))
            for name, each in (("x", x), ("other", other))
        }

    def work(session, rank):
        text = caught(lambda: session.run(given(rank)), InputError)
        session.run(given(rank), check=False)
        session.run(given(0))
        # Values that change in place are looked at each time.
        again = given(0)
        session.run(again)
        again["other"][0, 0] += rank
        assert caught(lambda: session.run(again), InputError) == text
        return text

    engine = bytes(memoryview(build(define)))
    assert set(on_two([engine] * 2, work)) == {
        "input 'other' has other values on rank 1 than on rank 0. All ranks take the same inputs: read them from one "
        "file, seed the generator, or broadcast them."
    }


def test_inputs_without_elements_and_without_a_dimension():
    def define():
        x = tx.Tensor("x", "float32", [-1], OrderedDict(count=[[0, 1, 4]]))
        factor = tx.Tensor("factor", "float32", [])
        functional.allreduce(x * factor, [0, 1]).mark_output("y")

    def work(session, rank):
        x, factor = np.zeros(0, np.float32), np.array(2, np.float32)
        assert session.run({"x": x, "factor": factor})["y"].shape == (0,)
        return caught(lambda: session.run({"x": x, "factor": np.array(rank, np.float32)}), InputError)

    engine = bytes(memoryview(build(define)))
    assert "'factor' has other values" in on_two([engine] * 2, work)[0]


def test_one_rank_checks_and_the_other_does_not(two):
    def work(session, rank):
        text = caught(lambda: session.run({"x": tokens(2)}, check=rank == 0), InputError)
        check_runs(session)
        return text

    assert on_two(two, work)[1].startswith("rank 1 runs with check=False, rank 0 runs with check=True.")


def test_the_record_costs_little(two):
    """32 bytes a rank, made once for each shape; no words while all is well."""
    calls = {"all_gather": 0, "exchange": 0}

    class Counting(Wrapped):
        def all_gather(self, values, gathered, group):
            assert values.nbytes == 32
            calls["all_gather"] += 1
            self.end.all_gather(values, gathered, group)

        def exchange(self, value):
            calls["exchange"] += 1
            return self.end.exchange(value)

    def run(end):
        with tx.Session.from_serialized_engine(two[end.rank], communicator=Counting(end)) as session:
            end.exchange(None)
            loaded = calls["exchange"]
            end.exchange(None)
            for count in (1, 5, 5, 16):
                check_runs(session, count)
            end.exchange(None)
            return calls["exchange"] - loaded

    assert run_ranks(2, run) == [0, 0]
    assert calls["all_gather"] == 2 * 4
