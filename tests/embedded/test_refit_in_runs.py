"""Weights exchanged in the middle of a run, and exchanges that do not come about."""

import numpy as np
import pytest
from sample_plugins import Bench, Creator, NumpyPlugin, Room, run
from tiny_plans import config_with

import trtllm_ext.embedded as trt

BUDGET_S = 5


def refittable(bench):
    config = config_with(bench.builder)
    config.set_flag(trt.BuilderFlag.REFIT)
    return bench.builder.build_serialized_network(bench.network, config)


class RefittingRoom(Room):
    """Exchanges the weights of its engine when it is asked for memory, which is in the middle of a call."""

    def __init__(self, refit):
        super().__init__(np.float32)
        self.refit = refit

    def reallocate_output(self, tensor_name, memory, size, alignment):
        self.refit()
        return super().reallocate_output(tensor_name, memory, size, alignment)


class Passing(NumpyPlugin):
    """Gives its input on."""

    def compute(self, inputs, outputs):
        outputs[0][...] = inputs[0]


class Refitting(Passing):
    """Gives its input on, and exchanges the weights of its engine."""

    refit = None

    def compute(self, inputs, outputs):
        type(self).refit()
        super().compute(inputs, outputs)


@pytest.mark.parametrize("mode", ["prepack", "mapped"])
@pytest.mark.parametrize("where", ["allocator", "plugin"])
def test_a_run_goes_on_with_the_weights_that_it_began_with(mode, where):
    # The weights are large, so that memory which is freed too early is no longer there at all.
    bench, count = Bench(), 1 << 20
    weights = np.ones((1, count), np.float32)
    y = bench.input("x", (1, 1))
    if where == "plugin":
        (y,) = bench.plugin(Refitting(), bench.relu(y))
    constant = bench.network.add_constant((1, count), trt.Weights(weights)).get_output(0)
    assert bench.network.set_weights_name(trt.Weights(weights), "w")
    for _ in range(2):
        y = bench.network.add_elementwise(y, constant, trt.ElementWiseOperation.SUM).get_output(0)
    bench.output(bench.network.add_reduce(y, trt.ReduceOperation.MAX, 2, True).get_output(0), "y")
    plan = refittable(bench)
    runtime = trt.Runtime(bench.log)
    runtime.load_mode = mode
    runtime.get_plugin_registry().register_creator(Creator(Refitting))
    engine = runtime.deserialize_cuda_engine(plan)
    context, given = engine.create_execution_context(), [2]

    def exchange():
        refitter = trt.Refitter(engine, bench.log)
        assert refitter.set_named_weights("w", trt.Weights(np.full((1, count), given[0], np.float32)))
        assert refitter.refit_cuda_engine()

    Refitting.refit = staticmethod(exchange)
    x, room = np.zeros((1, 1), np.float32), RefittingRoom(exchange if where == "allocator" else lambda: None)
    context.set_output_allocator("y", room)
    context.set_tensor_address("x", x.ctypes.data)
    for value in (1, 2, 3):
        given[0] = value + 1
        assert context.execute_async_v3(0), bench.log.said
        assert room.array().item() == 2 * value


def test_a_refit_that_a_plugin_refuses_changes_nothing(monkeypatch):
    bench, weights = Bench(), np.ones((1, 4), np.float32)
    (y,) = bench.plugin(Passing(), bench.input("x", (1, 4)))
    constant = bench.network.add_constant((1, 4), trt.Weights(weights)).get_output(0)
    assert bench.network.set_weights_name(trt.Weights(weights), "w")
    bench.output(bench.network.add_elementwise(y, constant, trt.ElementWiseOperation.SUM).get_output(0), "y")
    engine = bench.load(refittable(bench), Creator(Passing))
    contexts = [engine.create_execution_context() for _ in range(3)]

    def results():
        x, created = np.zeros((1, 4), np.float32), engine.create_execution_context()
        return {run(context, {"x": x})["y"][0, 0] for context in (*contexts, created)}

    refitter = trt.Refitter(engine, bench.log)
    assert refitter.set_named_weights("w", trt.Weights(3 * weights))
    attached = []

    def attach_once(plugin, context):
        attached.append(plugin)
        if len(attached) == 2:
            raise ValueError("one is enough")
        return plugin.clone()

    with monkeypatch.context() as patch:
        patch.setattr(Passing, "attach_to_context", attach_once)
        assert not refitter.refit_cuda_engine()
    assert "attach_to_context() raised ValueError: one is enough" in bench.log.last
    assert results() == {1}
    assert refitter.refit_cuda_engine()
    assert results() == {3}
