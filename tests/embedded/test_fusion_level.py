"""The fusion level: from TensorRT's optimization level into the plan, and from there to every session."""

import json

import numpy as np
import onnxruntime
import pytest
from tiny_plans import (
    FeedForward,
    Log,
    config_with,
    context_of,
    parts_of,
    run_context,
    signed,
    strongly_typed,
)

import trtllm_ext.embedded as trt
from trtllm_ext.embedded import segment_table
from trtllm_ext.embedded.fusion import FUSIONS_OF_BASIC_LEVEL
from trtllm_ext.embedded.plan import read_plan

BUDGET_S = 3

BASIC, ALL = (
    onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
)
DISABLED = "optimization.disable_specified_optimizers"


def plan_at(optimization_level, flag=None):
    """(FeedForward, plan) built at a `builder_optimization_level`, None for the default."""
    builder, model = trt.Builder(Log()), FeedForward()
    network = strongly_typed(builder)
    model.define(network)
    config = config_with(builder, {"x": ((1, 16), (4, 16), (8, 16))})
    if optimization_level is not None:
        config.builder_optimization_level = optimization_level
    if flag is not None:
        config.set_flag(flag)
    return model, bytes(builder.build_serialized_network(network, config))


@pytest.fixture
def opened(monkeypatch):
    """What the sessions opened in this test were given: (level, disabled optimizers)."""
    seen, make = [], onnxruntime.InferenceSession

    def spy(model, options, **arguments):
        try:
            disabled = options.get_session_config_entry(DISABLED).split(";")
        except RuntimeError:  # there is none
            disabled = []
        seen.append((options.graph_optimization_level, set(disabled)))
        return make(model, options, **arguments)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    monkeypatch.setattr(segment_table, "_TRIED", {})  # as in a process that has built nothing yet
    return seen


@pytest.mark.parametrize(
    ("optimization_level", "level"),
    [(0, "basic"), (1, "basic"), (2, "all"), (3, "all"), (5, "all"), (None, "all")],
)
def test_tensorrts_number_becomes_a_level(optimization_level, level):
    assert read_plan(memoryview(plan_at(optimization_level)[1])).header.fusion_level == level


@pytest.mark.parametrize("mode", ["prepack", "mapped"])
@pytest.mark.parametrize("optimization_level", [1, 3])
def test_an_engine_runs_at_the_level_of_its_plan(opened, mode, optimization_level):
    model, plan = plan_at(optimization_level)
    context = context_of(plan, Log(), mode)
    x = np.random.default_rng(1).normal(size=(5, model.hidden)).astype(np.float32)
    y = run_context(context, {"x": x}, {"y": np.float32})["y"]
    np.testing.assert_allclose(y, model.run(x), rtol=1e-5, atol=1e-5)
    assert len(opened) == 2  # the builder has tried the model before
    for level, disabled in opened:
        assert level == (BASIC if optimization_level == 1 else ALL)
        assert (disabled >= set(FUSIONS_OF_BASIC_LEVEL)) == (optimization_level == 1)
    assert ("ConstantFolding" in opened[1][1]) == (mode == "mapped")


def test_a_model_is_tried_once_at_a_level(opened):
    for count, optimization_level in enumerate((1, 3), start=1):
        for _ in range(2):
            plan_at(optimization_level)
            assert len(opened) == count


def test_an_engine_written_again_or_refitted_keeps_its_level(opened):
    model, plan = plan_at(0, trt.BuilderFlag.REFIT)
    engine = trt.Runtime(Log()).deserialize_cuda_engine(plan)
    refitter = trt.Refitter(engine, Log())
    layer, role = next(
        place for place in zip(*refitter.get_all(), strict=True) if place[1] == trt.WeightsRole.CONSTANT
    )
    assert refitter.set_weights(layer, role, trt.Weights(model.w1 * 2)) and refitter.refit_cuda_engine()
    again = bytes(engine.serialize())
    assert again != plan
    assert read_plan(memoryview(again)).header.fusion_level == "basic"
    trt.Runtime(Log()).deserialize_cuda_engine(again)
    assert {level for level, _ in opened} == {BASIC} and len(opened) == 4


def test_a_tensor_in_the_way_changes_no_bit():
    """At the basic level, in a plan of its own that shows the product before its bias too."""
    x = np.random.default_rng(1).normal(size=(8, 512)).astype(np.float32)
    got = []
    for shows in (False, True):
        builder, model = trt.Builder(Log()), FeedForward(hidden=512, ffn=600)
        network = strongly_typed(builder)
        model.define(network)
        if shows:
            for index in range(network.num_layers):
                tensor = network.get_layer(index).get_output(0)
                if network.get_layer(index).num_inputs and not tensor.is_network_output:
                    network.mark_output(tensor)
        config = config_with(builder, {"x": ((1, 512), (4, 512), (8, 512))})
        config.builder_optimization_level = 1
        context = context_of(builder.build_serialized_network(network, config), Log())
        outputs = [network.get_output(index).name for index in range(network.num_outputs)]
        assert len(outputs) == (5 if shows else 1)
        got.append(run_context(context, {"x": x}, dict.fromkeys(outputs, np.float32))["y"])
    assert got[0].tobytes() == got[1].tobytes()


def test_a_plan_of_an_unknown_level_is_refused():
    header, segments, weights = parts_of(plan_at(None)[1])
    for value, reason in (
        ("some", "'some' as fusion level; there are basic, all"),
        (1, "1 at header.fusion_level"),
    ):
        log, fields = Log(), json.loads(header)
        fields["fusion_level"] = value
        plan = signed(json.dumps(fields).encode(), segments, weights)
        assert trt.Runtime(log).deserialize_cuda_engine(plan) is None
        assert reason in log.last
