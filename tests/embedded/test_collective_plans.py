"""Collectives in plans: what a plan says of them, what it refuses, and that nonsense does no harm."""

import json
import random

import numpy as np
import pytest
from ranks_bench import ALL_GATHER, ALL_REDUCE, NONE, REDUCE_SCATTER, SUM, RanksBench
from sample_plugins import run
from test_fuzz_plan import mutated
from tiny_plans import Log, parts_of, signed

import trtllm_ext.embedded as trt
from trtllm_ext.embedded.plan import CollectiveInfo, read_plan
from trtllm_ext.embedded.plan.steps import collective_steps, step_from_json
from trtllm_ext.errors import EngineError
from trtllm_ext.parallel import LocalWorld

BUDGET_S = 5

STEP = {
    "kind": "collective",
    "layer": "sum",
    "operation": "ALL_REDUCE",
    "reduce_op": "SUM",
    "group": [0, 1],
    "input": "a",
    "output": "b",
    "type": "float32",
    "max_elements": 12,
}


def test_steps_are_written_and_read_back():
    step = step_from_json(STEP)
    assert step.to_json() == STEP
    assert (step.inputs, step.outputs, step.group) == (("a",), ("b",), (0, 1))


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("operation", "BROADCAST", "collective BROADCAST is not supported"),
        ("operation", "SHOUT", "operation, where a CollectiveOperation belongs"),
        ("operation", "ALL_GATHER", "reduces nothing"),
        ("reduce_op", "NONE", "needs a reduce_op"),
        ("reduce_op", "XOR", "reduce_op, where a ReduceOperation belongs"),
        ("group", [], "groups is empty"),
        ("group", [1, 1], "names rank 1 twice"),
        ("group", [-1], "a list of integers"),
        ("group", [True], "a list of integers"),
        ("type", "int8", "does not take INT8"),
        ("type", "quaternion", "tensor of type 'quaternion'"),
        ("input", 3, "where a string belongs"),
        ("max_elements", -1, "where an integer in"),
        ("max_elements", 2**60, "where an integer in"),
        ("root", 0, "unknown keys at steps: root"),
    ],
)
def test_wrong_steps_are_refused(key, value, reason):
    with pytest.raises(EngineError, match=reason):
        step_from_json(STEP | {key: value})


@pytest.mark.parametrize("key", [key for key in STEP if key != "kind"])
def test_incomplete_steps_are_refused(key):
    with pytest.raises(EngineError, match=f"lacks '{key}' at steps"):
        step_from_json({name: value for name, value in STEP.items() if name != key})


def several(verbosity=trt.ProfilingVerbosity.DETAILED):
    """Two all-reduces of one kind and different size, one of another type, a gather; two profiles."""
    bench = RanksBench()
    x = bench.input("x", (-1, 4))
    y = bench.collective(bench.relu(x), 2)
    longer = bench.network.add_concatenation([y, y]).get_output(0)
    z = bench.collective(longer, 2)
    half = bench.network.add_cast(z, trt.float16).get_output(0)
    bench.output(bench.collective(half, 2), "half")
    bench.output(bench.collective(z, 2, ALL_GATHER, NONE), "gathered")
    config = bench.builder.create_builder_config()
    for most in (6, 10):
        profile = bench.builder.create_optimization_profile()
        profile.set_shape("x", (1, 4), (2, 4), (most, 4))
        config.add_optimization_profile(profile)
    config.profiling_verbosity = verbosity
    plan = bench.builder.build_serialized_network(bench.network, config)
    assert plan is not None, bench.log.said
    return bench, bytes(plan)


def test_an_engine_lists_its_collectives_with_their_largest_sizes():
    bench, plan = several()
    engine = bench.load(plan)
    expected = {
        CollectiveInfo("ALL_REDUCE", "SUM", (0, 1), "float32", 80, 2),
        CollectiveInfo("ALL_REDUCE", "SUM", (0, 1), "float16", 80, 1),
        CollectiveInfo("ALL_GATHER", "NONE", (0, 1), "float32", 80, 1),
    }
    assert engine.collectives == read_plan(memoryview(plan)).header.collectives
    assert set(engine.collectives) == expected
    assert len(engine.collectives) == 3
    assert engine.collectives[0].max_elements == 80


def test_an_engine_without_collectives_lists_none(log):
    bench = RanksBench()
    bench.output(bench.relu(bench.input("x", (2,))), "y")
    engine = bench.load(bench.build())
    context = engine.create_execution_context()
    assert engine.collectives == ()
    assert context.set_communicator(LocalWorld(2).communicators[1])
    np.testing.assert_array_equal(run(context, {"x": np.ones(2, np.float32)})["y"], [1, 1])


def test_the_inspector_shows_the_group():
    bench, plan = several()
    told = json.loads(
        bench.load(plan).create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    )
    shown = [layer for layer in told["Layers"] if layer["LayerType"] == "DIST_COLLECTIVE"]
    assert len(shown) == 4
    assert {(one["CollectiveOperation"], one["ReduceOperation"]) for one in shown} == {
        ("ALL_REDUCE", "SUM"),
        ("ALL_GATHER", "NONE"),
    }
    assert all(one["Group"] == [0, 1] for one in shown)
    assert not any("Group" in layer for layer in told["Layers"] if layer not in shown)


def test_a_plan_written_again_is_the_same():
    bench, plan = several(trt.ProfilingVerbosity.NONE)
    assert bytes(bench.load(plan).serialize()) == plan
    assert several(trt.ProfilingVerbosity.NONE)[1] == plan


def test_collectives_run_in_the_order_of_the_network_on_every_rank():
    """Weights of other values, large and small, change nothing of the order."""
    orders = []
    for seed in (0, 1):
        bench, rng = RanksBench(), np.random.default_rng(seed)
        x = bench.input("x", (4, 8))
        for number in range(5):
            weights = bench.constant(rng.standard_normal((4, 8)).astype(np.float32))
            layer = bench.network.add_dist_collective(bench.add(x, weights), REDUCE_SCATTER, SUM, -1, [0, 1])
            layer.name = f"collective {number}"
            bench.output(layer.get_output(0), f"y{number}")
        header = read_plan(memoryview(bytes(bench.build()))).header
        orders.append([step.layer for step in collective_steps(header.steps)])
    assert orders[0] == orders[1] == [f"collective {number}" for number in range(5)]


@pytest.mark.parametrize("part", range(4))
def test_well_signed_nonsense_about_collectives_never_crashes(part):
    _, plan = several(trt.ProfilingVerbosity.NONE)
    header, segments, weights = parts_of(plan)
    header, x = json.loads(header), np.ones((2, 4), np.float32)
    for seed in range(40 * part, 40 * part + 40):
        data = signed(
            json.dumps(mutated(header, random.Random(seed), ("steps",))).encode(), segments, weights
        )
        log = Log()
        engine = trt.Runtime(log).deserialize_cuda_engine(data)
        if engine is None:
            assert log.said
            continue
        context = engine.create_execution_context()
        context.set_communicator(LocalWorld(1).communicators[0])
        context.set_input_shape("x", x.shape)
        outputs = {name: np.zeros((8, 4), np.float32) for name in ("half", "gathered")}
        for name, array in {"x": x, **outputs}.items():
            context.set_tensor_address(name, array.ctypes.data)
        context.execute_async_v3(0)


def test_a_mutation_of_a_group_or_type_is_told(log):
    _, plan = several(trt.ProfilingVerbosity.NONE)
    header, segments, weights = parts_of(plan)
    header = json.loads(header)
    step = next(one for one in header["steps"]["steps"] if one["kind"] == "collective")
    assert step["operation"] == ALL_REDUCE.name
    step["type"] = "int32"
    assert (
        trt.Runtime(log).deserialize_cuda_engine(signed(json.dumps(header).encode(), segments, weights))
        is None
    )
    assert "in one step of the engine, and int32 in another" in log.last
