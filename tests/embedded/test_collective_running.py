"""Collectives of built engines on ranks that are threads: every kind and type against numpy, wherever values lie."""

import threading

import ml_dtypes
import numpy as np
import pytest
from ranks_bench import ALL_GATHER, ALL_REDUCE, NONE, REDUCE_SCATTER, RanksBench, numbers
from sample_plugins import run

import trtllm_ext.embedded as trt
from trtllm_ext.embedded.types import storage_dtype
from trtllm_ext.errors import RankError
from trtllm_ext.parallel import LocalWorld, run_ranks

BUDGET_S = 6

R = trt.ReduceOperation
FLOATS = [trt.float32, trt.float16, trt.bfloat16]
REDUCTIONS = [R.SUM, R.PROD, R.MAX, R.MIN]
COMBINE = {R.SUM: np.add, R.AVG: np.add, R.PROD: np.multiply, R.MAX: np.maximum, R.MIN: np.minimum}


def reduced(parts, op, dtype):
    """In rank order; narrow floats as float32, rounded once."""
    wide = np.float32 if dtype.kind not in "iu" else dtype
    total = parts[0].astype(wide)
    for part in parts[1:]:
        total = COMBINE[op](total, part.astype(wide))
    if op == R.AVG:
        total = total / wide(len(parts))
    return total.astype(dtype)


def expected(parts, operation, op, dtype):
    """What each rank gets."""
    if operation == ALL_GATHER:
        return [np.concatenate(parts)] * len(parts)
    total = reduced(parts, op, dtype)
    return [total] * len(parts) if operation == ALL_REDUCE else np.split(total, len(parts))


CASES = [
    (operation, op, dtype)
    for operation in (ALL_REDUCE, REDUCE_SCATTER)
    for dtype in (*FLOATS, trt.int32, trt.int64)
    for op in [*REDUCTIONS, *([R.AVG] if dtype in FLOATS else [])]
] + [(ALL_GATHER, NONE, dtype) for dtype in (*FLOATS, trt.int32, trt.int64, trt.int8, trt.bool)]


def named(value):
    return getattr(value, "name", value)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_every_kind_and_type_is_numpys_to_the_bit(size):
    """All of them in one engine: each between two layers of ONNX, and each from an input straight to an output."""
    bench, rng = RanksBench(), np.random.default_rng(size)
    feeds, want = [{} for _ in range(size)], [{} for _ in range(size)]
    for number, (operation, op, dtype) in enumerate(CASES):
        name, storage = f"{operation.name}_{op.name}_{dtype.name}_{number}", storage_dtype(dtype)
        x = bench.input(f"x {name}", (-1, 3), dtype)
        bench.output(bench.collective(x, size, operation, op), f"straight {name}")
        inner = bench.network.add_identity(x).get_output(0)
        made = bench.collective(inner, size, operation, op)
        bench.output(bench.network.add_identity(made).get_output(0), f"between {name}")
        parts = [numbers(rng, (2 * size, 3), storage) for _ in range(size)]
        for rank, found in enumerate(expected(parts, operation, op, storage)):
            feeds[rank][f"x {name}"] = parts[rank]
            want[rank][f"straight {name}"] = want[rank][f"between {name}"] = found
    shapes = dict.fromkeys(feeds[0], ((0, 3), (size, 3), (4 * size, 3)))
    plan = bench.build(shapes)
    assert plan is not None, bench.log.said
    for rank, found in enumerate(bench.run(plan, feeds, runs=2)):
        for name, array in found.items():
            assert array.dtype == want[rank][name].dtype
            assert array.tobytes() == want[rank][name].tobytes(), (rank, name)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["half", "bfloat16"])
def test_narrow_sums_are_rounded_once(dtype):
    # Rounded after each addition the small ones would be lost: a tie to even each time.
    one, tiny = np.float32(1), np.float32(ml_dtypes.finfo(dtype).eps) / 2
    feeds = [{"x": np.full((1, 1), value, dtype)} for value in (one, tiny, tiny)]
    assert dtype(one + tiny) == dtype(1)
    bench = RanksBench()
    kind = trt.float16 if dtype == np.float16 else trt.bfloat16
    bench.output(bench.collective(bench.input("x", (1, 1), kind), 3), "y")
    for found in bench.run(bench.build(), feeds):
        assert found["y"].astype(np.float32) == one + 2 * tiny


def test_values_that_are_read_later_stay_as_they_are():
    """The input of an all-reduce as an input, an output and a debug tensor of the engine, and read behind it."""
    bench = RanksBench()
    x = bench.input("x", (-1, 4))
    bench.output(bench.collective(x, 2), "of input")
    doubled = bench.add(x, x)
    bench.output(doubled, "doubled")
    summed = bench.collective(doubled, 2)
    bench.output(summed, "of output")
    seen = bench.relu(x)
    seen.name = "seen"
    assert bench.network.mark_debug(seen)
    bench.output(bench.relu(bench.collective(seen, 2)), "of debug tensor")
    residual = bench.network.add_unary(x, trt.UnaryOperation.NEG).get_output(0)
    again = bench.collective(residual, 2)
    bench.output(bench.add(again, residual), "with residual")
    bench.output(bench.collective(bench.collective(bench.relu(x), 2), 2), "twice")
    feeds = [{"x": np.random.default_rng(rank).standard_normal((3, 4)).astype(np.float32)} for rank in (0, 1)]
    before = [feed["x"].copy() for feed in feeds]
    total, positive = before[0] + before[1], np.maximum(before[0], 0) + np.maximum(before[1], 0)
    plan = bench.build({"x": ((1, 4), (3, 4), (8, 4))})
    for rank, found in enumerate(bench.run(plan, feeds, runs=3)):
        np.testing.assert_array_equal(feeds[rank]["x"], before[rank])
        np.testing.assert_array_equal(found["of input"], total)
        np.testing.assert_array_equal(found["doubled"], 2 * before[rank])
        np.testing.assert_array_equal(found["of output"], 2 * total)
        np.testing.assert_array_equal(found["of debug tensor"], positive)
        np.testing.assert_array_equal(found["with residual"], -total - before[rank])
        np.testing.assert_array_equal(found["twice"], 2 * positive)


@pytest.mark.parametrize("load_mode", ["prepack", "mapped"])
def test_what_a_segment_only_hands_on_stays_as_it_is(load_mode):
    """Inputs, values of other steps and constants of every size, renamed, reshaped, or given out twice."""
    bench, rng = RanksBench(), np.random.default_rng(8)
    network, x = bench.network, bench.input("x", (-1, 4))
    bench.output(bench.collective(network.add_identity(x).get_output(0), 2), "renamed")
    shuffle = network.add_shuffle(x)
    shuffle.reshape_dims = (4, -1)
    bench.output(bench.collective(shuffle.get_output(0), 2), "reshaped")
    value = bench.relu(bench.collective(x, 2))
    same = network.add_identity(value).get_output(0)
    bench.output(bench.relu(bench.collective(same, 2)), "one of two")
    bench.output(bench.relu(bench.collective(value, 2)), "other of two")
    handed = network.add_identity(bench.collective(value, 2)).get_output(0)
    bench.output(bench.relu(bench.collective(handed, 2)), "handed on")
    bench.output(handed, "handed")
    constants = {f"constant {size}": rng.random((size, 4)).astype(np.float32) for size in (1, 40, 4000)}
    for name, array in constants.items():
        bench.output(bench.collective(bench.constant(array), 2), name)
    feeds = [{"x": rng.standard_normal((3, 4)).astype(np.float32)} for _ in range(2)]
    before = [feed["x"].copy() for feed in feeds]
    total = before[0] + before[1]
    positive = np.maximum(total, 0)
    plan = bench.build({"x": ((1, 4), (3, 4), (8, 4))})
    for rank, found in enumerate(bench.run(plan, feeds, runs=3, load_mode=load_mode)):
        np.testing.assert_array_equal(feeds[rank]["x"], before[rank])
        np.testing.assert_array_equal(found["renamed"], total)
        np.testing.assert_array_equal(found["reshaped"], total.reshape(4, 3))
        np.testing.assert_array_equal(found["one of two"], 2 * positive)
        np.testing.assert_array_equal(found["other of two"], 2 * positive)
        np.testing.assert_array_equal(found["handed"], 2 * positive)
        np.testing.assert_array_equal(found["handed on"], 4 * positive)
        for name, array in constants.items():
            np.testing.assert_array_equal(found[name], 2 * array)


def test_memory_that_is_taken_over_is_not_free():
    """The sum of a sum lies where the first one lay, and the next collective must not take that for its own."""
    bench, rng = RanksBench(), np.random.default_rng(9)
    x, y = bench.input("x", (6,)), bench.input("y", (6,))
    twice = bench.collective(bench.collective(x, 2), 2)
    bench.output(bench.add(twice, bench.collective(y, 2)), "z")
    feeds = [{name: rng.integers(0, 99, 6).astype(np.float32) for name in "xy"} for _ in range(2)]
    want = 2 * (feeds[0]["x"] + feeds[1]["x"]) + feeds[0]["y"] + feeds[1]["y"]
    for found in bench.run(bench.build(), feeds, runs=3):
        np.testing.assert_array_equal(found["z"], want)


def test_collectives_of_constants_and_of_nothing():
    bench = RanksBench()
    x = bench.input("x", (-1, 2))
    ones = np.ones((2, 2), np.float32)
    bench.output(bench.collective(bench.constant(ones), 2), "ones")
    bench.output(bench.relu(bench.collective(bench.relu(x), 2)), "y")
    feeds = [{"x": np.zeros((0, 2), np.float32)}] * 2
    for found in bench.run(bench.build({"x": ((0, 2), (1, 2), (4, 2))}), feeds):
        np.testing.assert_array_equal(found["ones"], 2 * ones)
        assert found["y"].shape == (0, 2)


def test_a_group_of_other_ranks_in_another_order():
    bench = RanksBench()
    x = bench.input("x", (1,))
    layer = bench.network.add_dist_collective(x, ALL_GATHER, None, None, (2, 0))
    bench.output(layer.get_output(0), "y")
    plan, world = bench.build(), LocalWorld(3)
    context = bench.load(plan).create_execution_context()
    assert not context.set_communicator(world.communicators[1])
    assert "over the ranks [2, 0], in which this one, rank 1, is not" in bench.log.last
    small = LocalWorld(2)
    assert not context.set_communicator(small.communicators[0])
    assert "world has only 2; start 3 or more ranks" in bench.log.last
    with pytest.raises(TypeError, match=r"must be a trtllm_ext\.parallel\.Communicator, not 'nccl'"):
        context.set_communicator("nccl")
    with pytest.raises(
        AssertionError, match=r"over the ranks 0, 2, but no communicator.*set_communicator\(\)"
    ):
        run(context, {"x": np.ones(1, np.float32)})


def test_an_error_of_the_ranks_ends_the_run_with_its_text():
    bench, world = RanksBench(), LocalWorld(2, timeout=5.0)
    bench.output(bench.collective(bench.input("x", (1,)), 2), "y")
    context = bench.load(bench.build()).create_execution_context()
    assert context.set_communicator(world.communicators[0])
    assert context.rank_error is None
    world.communicators[1].fail("ValueError: no such token")
    with pytest.raises(AssertionError, match="no such token"):
        run(context, {"x": np.ones(1, np.float32)})
    assert isinstance(context.rank_error, RankError)
    assert str(context.rank_error) in bench.log.last
    assert "no such token" in str(context.rank_error)


def test_a_refit_keeps_the_communicator():
    bench = RanksBench()
    x, weights = bench.input("x", (4,)), np.ones(4, np.float32)
    bench.output(bench.collective(bench.add(x, bench.constant(weights)), 2), "y")
    bench.network.set_weights_name(trt.Weights(weights), "bias")
    config = bench.builder.create_builder_config()
    config.set_flag(trt.BuilderFlag.REFIT)
    engine = bench.load(bench.builder.build_serialized_network(bench.network, config))
    barrier, feeds = threading.Barrier(2, timeout=10), {"x": np.zeros(4, np.float32)}

    def rank(communicator):
        context = engine.create_execution_context()
        assert context.set_communicator(communicator)
        before = run(context, feeds)["y"]
        if barrier.wait() == 0:
            refitter = trt.Refitter(engine, bench.log)
            assert refitter.set_named_weights("bias", np.full(4, 5, np.float32)), bench.log.said
            assert refitter.refit_cuda_engine()
        barrier.wait()
        return before, run(context, feeds)["y"]

    for before, after in run_ranks(2, rank):
        np.testing.assert_array_equal(before, np.full(4, 2))
        np.testing.assert_array_equal(after, np.full(4, 10))
