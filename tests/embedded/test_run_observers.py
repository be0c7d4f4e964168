"""What watches a run: profilers, debug listeners; and outputs that are shapes."""

import ctypes

import numpy as np
import pytest
from tiny_plans import FeedForward, config_with, context_of, run_context, strongly_typed

import trtllm_ext.embedded as trt

BUDGET_S = 5

SIZES = {"x": ((1, 16), (4, 16), (8, 16))}
X = np.random.default_rng(3).standard_normal((3, 16)).astype(np.float32)


def context(builder, log, network):
    plan = builder.build_serialized_network(network, config_with(builder, SIZES))
    assert plan is not None, log.said
    return context_of(plan, log)


def feed_forward(builder, mark=()):
    network, model = strongly_typed(builder), FeedForward()
    model.define(network)
    for number in mark:
        tensor = network.get_layer(number).get_output(0)
        tensor.name = f"debug{number}"
        assert network.mark_debug(tensor)
        assert network.is_debug_tensor(tensor)
    return network, model


class Times(trt.IProfiler):
    def __init__(self):
        super().__init__()
        self.told = []

    def report_layer_time(self, layer_name, ms):
        self.told.append((layer_name, ms))


def test_a_profiler_is_told_the_time_of_each_step(builder, log):
    network, model = feed_forward(builder)
    one, times = context(builder, log, network), Times()
    assert one.profiler is None
    assert not one.report_to_profiler()
    one.profiler = times
    got = run_context(one, {"x": X}, {"y": np.float32})["y"]
    np.testing.assert_allclose(got, model.run(X), rtol=1e-4, atol=1e-5)
    ((name, ms),) = times.told
    assert name == "segment 0"
    assert 0 < ms < 1e4
    one.enqueue_emits_profile = False
    run_context(one, {"x": X}, {"y": np.float32})
    assert len(times.told) == 1
    assert one.report_to_profiler()
    assert len(times.told) == 2
    one.profiler = None
    with pytest.raises(TypeError, match="IProfiler"):
        one.profiler = print


class UnwellError(Exception):
    def __str__(self):
        raise ValueError("not even this")


def test_a_profiler_that_fails_is_named(builder, log):
    class Failing(trt.IProfiler):
        def report_layer_time(self, layer_name, ms):
            raise UnwellError

    network, model = feed_forward(builder)
    one = context(builder, log, network)
    y = run_context(one, {"x": X}, {"y": np.float32})["y"]
    y[:] = 77
    one.profiler = Failing()
    one.set_tensor_address("y", y.ctypes.data)
    assert not one.execute_async_v3(0)
    assert log.last == "execute_async_v3: the run is done, but the profiler failed: UnwellError"
    np.testing.assert_allclose(y, model.run(X), rtol=1e-4, atol=1e-5)


def test_the_profiler_of_the_module_prints(builder, log, capsys):
    network, _ = feed_forward(builder)
    one = context(builder, log, network)
    one.profiler = trt.Profiler()
    run_context(one, {"x": X}, {"y": np.float32})
    assert capsys.readouterr().out.startswith("segment 0: ")


class Listener(trt.IDebugListener):
    def __init__(self):
        super().__init__()
        self.seen = {}

    def process_debug_tensor(self, addr, location, type, shape, name, stream):
        assert location == trt.TensorLocation.HOST
        array = np.empty(tuple(shape), trt.nptype(type))
        ctypes.memmove(array.ctypes.data, addr, array.nbytes)
        self.seen[name] = array
        return True


def test_debug_tensors_are_shown_to_the_listener(builder, log):
    network, model = feed_forward(builder, mark=(1, 4))
    one, listener = context(builder, log, network), Listener()
    engine = one.engine
    assert engine.num_io_tensors == 2
    assert engine.is_debug_tensor("debug4")
    assert not engine.is_debug_tensor("y")
    assert one.get_debug_listener() is None
    assert one.set_debug_listener(listener)
    assert one.get_debug_listener() is listener
    run_context(one, {"x": X}, {"y": np.float32})
    assert listener.seen == {}
    assert one.set_tensor_debug_state("debug1", True)
    assert one.get_debug_state("debug1")
    got = run_context(one, {"x": X}, {"y": np.float32})["y"]
    np.testing.assert_allclose(got, model.run(X), rtol=1e-4, atol=1e-5)
    assert list(listener.seen) == ["debug1"]
    np.testing.assert_allclose(listener.seen["debug1"], X @ model.w1.T, rtol=1e-4, atol=1e-5)
    assert one.set_all_tensors_debug_state(True)
    for rows in (1, 8, 3):
        run_context(one, {"x": np.ones((rows, 16), np.float32)}, {"y": np.float32})
        assert listener.seen["debug4"].shape == (rows, 24)
    assert one.set_all_tensors_debug_state(False)
    assert not one.get_debug_state("debug1")
    assert not one.set_tensor_debug_state("y", True)
    assert "no debug tensor of this engine" in log.last


def test_inputs_and_outputs_may_be_debug_tensors(builder, log):
    network, _ = feed_forward(builder)
    assert network.mark_debug(network.get_input(0))
    assert network.mark_debug(network.get_output(0))
    one, listener = context(builder, log, network), Listener()
    one.set_debug_listener(listener)
    one.set_all_tensors_debug_state(True)
    got = run_context(one, {"x": X}, {"y": np.float32})["y"]
    np.testing.assert_array_equal(listener.seen["x"], X)
    np.testing.assert_array_equal(listener.seen["y"], got)


def test_a_listener_that_fails_fails_the_run(builder, log):
    network, _ = feed_forward(builder, mark=(1,))
    one = context(builder, log, network)
    one.set_debug_listener(trt.IDebugListener())
    one.set_all_tensors_debug_state(True)
    x, y = X.copy(), np.zeros_like(X)
    one.set_input_shape("x", x.shape)
    one.set_tensor_address("x", x.ctypes.data)
    one.set_tensor_address("y", y.ctypes.data)
    assert not one.execute_async_v3(0)
    assert "the debug listener failed for 'debug1'" in log.last
    with pytest.raises(TypeError, match="IDebugListener"):
        one.set_debug_listener(print)


def test_what_cannot_be_a_debug_tensor(builder, log):
    network, _ = feed_forward(builder)
    assert not network.unmark_debug(network.get_output(0))
    assert not network.mark_unfused_tensors_as_debug_tensors()
    assert "not supported by the embedded engine" in log.last
    tensor = network.get_layer(1).get_output(0)
    tensor.name = "x"
    assert network.mark_debug(tensor)
    assert builder.build_serialized_network(network, config_with(builder, SIZES)) is None
    assert "debug tensors are named 'x'" in log.last
    assert network.unmark_debug(tensor)
    one = context(builder, log, network)
    assert not one.unfused_tensors_debug_state
    one.unfused_tensors_debug_state = True
    assert "mark_debug()" in log.last


# Outputs that are shapes


def test_a_shape_is_an_output(builder, log):
    network = strongly_typed(builder)
    x = network.add_input("x", trt.float32, (-1, 16))
    shape = network.add_shape(x).get_output(0)
    shape.name = "shape"
    y = network.add_identity(x).get_output(0)
    y.name = "y"
    network.mark_output(y)
    assert not network.mark_output_for_shapes(y)
    assert network.mark_output_for_shapes(shape)
    assert not network.mark_output_for_shapes(shape)
    assert network.num_outputs == 2
    assert network.get_output(1) is shape
    assert shape.is_shape_tensor
    one = context(builder, log, network)
    assert one.engine.is_shape_inference_io("shape")
    assert not one.engine.is_shape_inference_io("y")
    assert one.engine.get_tensor_location("shape") == trt.TensorLocation.HOST
    got = run_context(one, {"x": X}, {"y": np.float32, "shape": np.int64})
    assert got["shape"].tolist() == [3, 16]
    assert network.unmark_output_for_shapes(shape)
    assert not network.unmark_output_for_shapes(shape)
    assert network.num_outputs == 1


def test_a_tensor_without_shape_values_is_no_output_of_shapes(builder, log):
    network = strongly_typed(builder)
    x = network.add_input("x", trt.float32, (-1, 16))
    assert not network.mark_output_for_shapes(x)
    assert "is FLOAT of shape (-1, 16); it must be INT32 or INT64" in log.last
