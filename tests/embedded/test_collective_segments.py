"""Stacks of layers cut by collectives: equal segments are one session, and threads do not multiply."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ranks_bench import SUM, RanksBench
from tiny_plans import parts_of, signed

import trtllm_ext.embedded as trt
from trtllm_ext.embedded.plan import read_plan
from trtllm_ext.embedded.plan.steps import onnx_steps
from trtllm_ext.errors import ConfigError

BUDGET_S = 8

HIDDEN = 32


def weights_of(seed, rows=HIDDEN):
    return np.random.default_rng(seed).standard_normal((rows, HIDDEN)).astype(np.float32) / 8


def stack(layers, tied=True, refit=False, debug=(), dtype=np.float32):
    """x <- x + all_reduce(relu(x w1) w2), `layers` times; tied layers have the same arrays."""
    bench = RanksBench()
    arrays = [weights_of(seed).astype(dtype) for seed in range(2)]
    x = bench.input("x", (-1, HIDDEN), {np.float32: trt.float32, np.float16: trt.float16}[dtype])
    none = trt.MatrixOperation.NONE
    used = []
    for number in range(layers):
        own = arrays if tied else [weights_of(10 + 2 * number), weights_of(11 + 2 * number)]
        used.append(own)
        h = bench.network.add_matrix_multiply(x, none, bench.constant(own[0]), none).get_output(0)
        h = bench.network.add_matrix_multiply(bench.relu(h), none, bench.constant(own[1]), none).get_output(0)
        if number in debug:
            h.name = f"debug {number}"
            assert bench.network.mark_debug(h)
        layer = bench.network.add_dist_collective(h, trt.CollectiveOperation.ALL_REDUCE, SUM, -1, [0, 1])
        x = bench.add(x, layer.get_output(0))
    bench.output(x, "y")
    shapes = {"x": ((1, HIDDEN), (4, HIDDEN), (8, HIDDEN))}
    config = bench.builder.create_builder_config()
    profile = bench.builder.create_optimization_profile()
    profile.set_shape("x", *shapes["x"])
    config.add_optimization_profile(profile)
    if refit:
        config.set_flag(trt.BuilderFlag.REFIT)
    plan = bench.builder.build_serialized_network(bench.network, config)
    assert plan is not None, bench.log.said
    return bench, bytes(plan), used


def reference(x, used):
    x = x.astype(np.float64)
    for w1, w2 in used:
        x = x + 2 * (np.maximum(x @ w1.astype(np.float64), 0) @ w2.astype(np.float64))
    return x


def segments_and_steps(plan):
    header = read_plan(memoryview(plan)).header
    return len(header.segments), [step.segment for step in onnx_steps(header.steps)]


X = np.random.default_rng(5).standard_normal((3, HIDDEN)).astype(np.float32)


@pytest.mark.parametrize("tied", [True, False])
def test_equal_segments_are_one_session(tied):
    bench, plan, used = stack(6, tied=tied)
    count, steps = segments_and_steps(plan)
    assert len(steps) == 7
    # The first has no sum before it, the last no product behind it; those between differ in names only.
    assert (count, steps) == ((3, [0, 1, 1, 1, 1, 1, 2]) if tied else (7, list(range(7))))
    for found in bench.run(plan, [{"x": X}, {"x": X}], runs=2):
        np.testing.assert_allclose(found["y"], reference(X, used), rtol=1e-5, atol=1e-5)


def test_equal_segments_of_half_are_one_session():
    """Small weights are widened for each use, into memory of its own."""
    bench, plan, used = stack(6, dtype=np.float16)
    assert segments_and_steps(plan) == (3, [0, 1, 1, 1, 1, 1, 2])
    x = X.astype(np.float16)
    for found in bench.run(plan, [{"x": x}, {"x": x}]):
        want = reference(x, used)
        np.testing.assert_allclose(found["y"], want, rtol=0, atol=1e-2 * np.abs(want).max())


def test_a_shared_segment_may_take_its_values_in_another_order():
    """a - b behind a cut in one layer, b - a in the next, the same operation over the same names swapped."""
    bench = RanksBench()
    a, b = bench.input("a", (2,)), bench.input("b", (2,))
    minus = trt.ElementWiseOperation.SUB
    outputs = []
    for one, other in ((a, b), (b, a)):
        left, right = bench.collective(one, 1), bench.collective(other, 1)
        outputs.append(bench.network.add_elementwise(left, right, minus).get_output(0))
        a, b = outputs[-1], bench.collective(outputs[-1], 1)
    bench.output(outputs[0], "first")
    bench.output(outputs[1], "second")
    feeds = {"a": np.array([5, 7], np.float32), "b": np.array([1, 4], np.float32)}
    [found] = bench.run(bench.build(), [feeds])
    np.testing.assert_array_equal(found["first"], [4, 3])
    np.testing.assert_array_equal(found["second"], [-4, -3])


def test_weights_that_can_be_exchanged_are_not_shared():
    bench, plan, used = stack(4, refit=True)
    count, steps = segments_and_steps(plan)
    assert len(set(steps)) == len(steps)
    assert count == len(steps)
    engine = bench.load(plan)
    refitter = trt.Refitter(engine, bench.log)
    layers, roles = refitter.get_all()
    assert len(layers) == 8
    new = weights_of(99)
    assert refitter.set_weights(layers[2], roles[2], new)
    assert refitter.refit_cuda_engine()
    again = bytes(engine.serialize())
    changed = [list(pair) for pair in used]
    changed[1][0] = new
    for found in bench.run(again, [{"x": X}, {"x": X}]):
        np.testing.assert_allclose(found["y"], reference(X, changed), rtol=1e-5, atol=1e-5)


def test_a_debug_tensor_makes_a_segment_another():
    _, plain, _ = stack(6)
    bench, plan, used = stack(6, debug=[3])
    assert segments_and_steps(plain)[0] <= segments_and_steps(plan)[0]
    for found in bench.run(plan, [{"x": X}, {"x": X}]):
        np.testing.assert_allclose(found["y"], reference(X, used), rtol=1e-5, atol=1e-5)


def test_a_step_with_other_numbers_of_values_is_refused(log):
    _, plan, _ = stack(6)
    header, segments, weights = parts_of(plan)
    header = json.loads(header)
    shared = [step for step in header["steps"]["steps"] if step.get("segment") == 1]
    shared[2]["inputs"] = shared[2]["inputs"][:1]
    data = signed(json.dumps(header).encode(), segments, weights)
    assert trt.Runtime(log).deserialize_cuda_engine(data) is None
    assert "runs segment 1 with 1 inputs and" in log.last


def test_thread_pools_have_names(log):
    runtime = trt.Runtime(log)
    assert runtime.thread_pool is None
    for pool in ("process", "none", None):
        runtime.thread_pool = pool
        assert runtime.thread_pool == pool
    with pytest.raises(
        ConfigError, match=r"thread_pool='engine' is not known\. Set it to 'process', 'none' or None"
    ):
        runtime.thread_pool = "engine"


PROGRAM = """
import sys
import time
from pathlib import Path
import numpy as np
from test_collective_segments import X, stack
from sample_plugins import run
import trtllm_ext.embedded as trt
from trtllm_ext.parallel.communicator import Communicator

class Alone(Communicator):
    rank, world_size, timeout, is_simulated = 0, 2, 1.0, True
    def all_reduce(self, values, group, op="sum"): values += values
    def __getattr__(self, name): raise AssertionError(name)

for name in Communicator.__abstractmethods__ - {"all_reduce"}:
    setattr(Alone, name, None)
Alone.__abstractmethods__ = frozenset()

def threads_now():
    counts = []
    for _ in range(10):
        counts.append(len(list(Path("/proc/self/task").iterdir())))
        time.sleep(0.01)
    return min(counts)

kept = []
for pool, layers in zip(sys.argv[1::2], map(int, sys.argv[2::2])):
    bench, plan, used = stack(layers, tied=False)
    before = threads_now()
    runtime = trt.Runtime(bench.log)
    runtime.thread_pool = None if pool == "engine" else pool
    engine = runtime.deserialize_cuda_engine(plan)
    context = engine.create_execution_context()
    assert context.set_communicator(Alone())
    run(context, {"x": X})
    kept.append((runtime, engine, context))
    print(threads_now() - before)
"""


def threads_of(*engines):
    """How many threads each engine of a process adds. engines: of each its pool and its number of layers."""
    environment = {**os.environ, "TRTLLM_EXT_NUM_THREADS": "3", "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", PROGRAM, *(str(each) for engine in engines for each in engine)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return [int(line) for line in done.stdout.split()]


def test_threads_do_not_grow_with_layers():
    none, own, process, another = threads_of(("none", 48), ("engine", 3), ("process", 48), ("process", 1))
    # The pool of the process is there once the first engine has it.
    assert (none, process, another) == (0, 2, 0)
    # What would happen otherwise: a pool a session.
    assert own > 2


@pytest.mark.long
def test_as_many_threads_for_one_layer():
    assert threads_of(("process", 1)) == [2]
