"""Steps of a plan one after another: values handed on, kept as long as needed, and sizes that only a run shows."""

import ctypes
from types import SimpleNamespace

import numpy as np
import pytest
from onnx import TensorProto, helper
from tiny_plans import Log, context_of, feed_forward_plan

import trtllm_ext.embedded as trt
from trtllm_ext.embedded.plan import OnnxStep, ProfileRecord, TensorRecord
from trtllm_ext.embedded.running.execution import Execution
from trtllm_ext.embedded.running.sessions import SharedWeight, open_session
from trtllm_ext.embedded.tensor_types import element_type_named
from trtllm_ext.errors import EngineError

BUDGET_S = 10

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def session_of(nodes, inputs, outputs, weights=(), mode="prepack"):
    """inputs, outputs: {name: (type, shape)}; weights: {name: (array, is_folded)}, all outside of the model."""
    initializers, shared = [], []
    for name, (array, is_folded) in dict(weights).items():
        onnx_type = helper.np_dtype_to_tensor_dtype(array.dtype)
        tensor = TensorProto(
            name=name, data_type=onnx_type, dims=array.shape, data_location=TensorProto.EXTERNAL
        )
        for key, value in (("location", "weights"), ("offset", 0), ("length", array.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        initializers.append(tensor)
        data = array.reshape(-1).view(np.uint8)
        shared.append(SharedWeight(name, onnx_type, array.shape, data, is_folded))
    infos = [
        [helper.make_tensor_value_info(name, *spec) for name, spec in given.items()]
        for given in (inputs, outputs)
    ]
    graph = helper.make_graph(nodes, "segment", *infos, initializers)
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    return open_session(model.SerializeToString(), shared, mode)


def vector(length):
    return (FLOAT, [length])


@pytest.fixture
def chain():
    """m = -x (m is an output too, and k = |x| is not); y = m + k in a second step; z = y * m in a third."""
    n = "n"
    sessions = [
        session_of(
            [helper.make_node("Neg", ["x"], ["m"]), helper.make_node("Abs", ["x"], ["k"])],
            {"x": vector(n)},
            {"m": vector(n), "k": vector(n)},
        ),
        session_of(
            [helper.make_node("Add", ["m", "k"], ["y"])], {"m": vector(n), "k": vector(n)}, {"y": vector(n)}
        ),
        session_of(
            [helper.make_node("Mul", ["y", "m"], ["z"])], {"y": vector(n), "m": vector(n)}, {"z": vector(n)}
        ),
    ]
    steps = [
        OnnxStep(0, ("x",), ("m", "k")),
        OnnxStep(1, ("m", "k"), ("y",)),
        OnnxStep(2, ("y", "m"), ("z",)),
    ]
    return Execution(steps, sessions, {"x": FLOAT, "m": FLOAT, "z": FLOAT})


def test_values_go_from_step_to_step(chain):
    for length in (4, 4, 7, 0):
        x = np.arange(-2, length - 2, dtype=np.float32)
        m, z = np.empty_like(x), np.empty_like(x)
        for name, array in (("x", x), ("m", m), ("z", z)):
            chain.bind(name, array.shape, array.ctypes.data if array.size else 0)
        chain.run()
        np.testing.assert_array_equal(m, -x)
        np.testing.assert_array_equal(z, (np.abs(x) - x) * -x)


def test_an_output_whose_size_the_run_shows():
    sessions = [
        session_of([helper.make_node("NonZero", ["x"], ["i"])], {"x": vector("n")}, {"i": (INT64, [1, "k"])}),
        session_of(
            [helper.make_node("Neg", ["i"], ["j"])], {"i": (INT64, [1, "k"])}, {"j": (INT64, [1, "k"])}
        ),
    ]
    steps = [OnnxStep(0, ("x",), ("i",)), OnnxStep(1, ("i",), ("j",))]
    execution = Execution(steps, sessions, {"x": FLOAT, "i": INT64, "j": INT64})
    for x in (np.float32([0, 5, 0, 6]), np.float32([1, 1, 1, 0]), np.float32([0, 0])):
        execution.bind("x", x.shape, x.ctypes.data)
        execution.bind_late("i")
        execution.bind_late("j")
        execution.run()
        want = np.flatnonzero(x)
        for name, sign in (("i", 1), ("j", -1)):
            shape, address, nbytes = execution.late_output(name)
            assert shape == (1, len(want))
            assert nbytes == 8 * len(want)
            got = np.zeros(len(want), np.int64)
            if nbytes:
                ctypes.memmove(got.ctypes.data, address, nbytes)
            np.testing.assert_array_equal(got, sign * want)


def test_a_context_delivers_what_depends_on_data_to_the_allocator():
    session = session_of(
        [helper.make_node("NonZero", ["x"], ["i"])], {"x": vector("n")}, {"i": (INT64, [1, "k"])}
    )
    size = ((1,), (4,), (8,))
    header = SimpleNamespace(profiles=[ProfileRecord(shapes={"x": size}, values={})])
    loaded = SimpleNamespace(
        plan=SimpleNamespace(header=header),
        tensors={
            "x": TensorRecord(name="x", is_input=True, dtype="float32", shape=(-1,)),
            "i": TensorRecord(name="i", is_input=False, dtype="int64", shape=(1, -1)),
        },
        elements={"x": element_type_named("float32"), "i": element_type_named("int64")},
        steps=[OnnxStep(0, ("x",), ("i",))],
        sessions=[session],
        debug_elements={},
        output_shapes=lambda shapes, values: {"i": (1, -1)},
    )
    log, room = Log(), np.zeros(8, np.int64)
    context = trt.IExecutionContext(SimpleNamespace(_loaded=loaded), loaded, log)

    class Allocator(trt.IOutputAllocator):
        told = None

        def reallocate_output(self, tensor_name, memory, size, alignment):
            return room.ctypes.data

        def notify_shape(self, tensor_name, shape):
            self.told = tuple(shape)

    x = np.float32([0, 3, 0, 4, 5])
    context.set_input_shape("x", x.shape)
    context.set_tensor_address("x", x.ctypes.data)
    assert not context.execute_async_v3(0)
    assert "the size of output 'i' depends on data; set an output allocator for it" in log.last
    allocator = Allocator()
    context.set_output_allocator("i", allocator)
    for array, want in ((x, [1, 3, 4]), (np.float32([0, 0]), []), (np.float32([7, 0]), [0])):
        context.set_input_shape("x", array.shape)
        context.set_tensor_address("x", array.ctypes.data)
        assert context.execute_async_v3(0)
        assert allocator.told == (1, len(want))
        assert room[: len(want)].tolist() == want


def test_a_run_that_fails_is_an_error_in_the_log_and_the_next_one_may_succeed():
    log = Log()
    model, plan = feed_forward_plan()
    context = context_of(plan, log)
    x, y = np.ones((2, 16), np.float32), np.empty((2, 16), np.float32)
    context.set_input_shape("x", x.shape)
    context.set_tensor_address("x", x.ctypes.data)
    context.set_tensor_address("y", y.ctypes.data)
    working = context._execution.run

    def broken():
        raise RuntimeError("Non-zero status code returned while running MatMul node.")

    context._execution.run = broken
    assert context.execute_async_v3(0) is False
    assert "the run failed: Non-zero status code" in log.last
    context._execution.run = working
    assert context.execute_async_v3(0) is True
    np.testing.assert_allclose(y, model.run(x), rtol=1e-5, atol=1e-5)


# Weights by pointer


RNG = np.random.default_rng(0)


@pytest.mark.parametrize("mode", ["prepack", "mapped"])
@pytest.mark.parametrize("is_folded", [True, False])
def test_a_weight_that_is_cast_is_right_however_it_is_declared(mode, is_folded):
    # Without the declaration the first attempt fails on the placeholder, and the weight is handed over then.
    weight = RNG.standard_normal((64, 48)).astype(np.float16)
    nodes = [
        helper.make_node("Cast", ["w"], ["wide"], to=FLOAT),
        helper.make_node("MatMul", ["x", "wide"], ["y"]),
    ]
    opened = session_of(
        nodes, {"x": (FLOAT, ["n", 64])}, {"y": (FLOAT, ["n", 48])}, {"w": (weight, is_folded)}, mode
    )
    x = RNG.standard_normal((3, 64)).astype(np.float32)
    (y,) = opened.session.run(None, {"x": x})
    np.testing.assert_allclose(y, x @ weight.astype(np.float32), rtol=1e-5, atol=1e-5)


def test_mapped_weights_are_read_where_they_are():
    weight = RNG.standard_normal((64, 48)).astype(np.float32)
    opened = session_of(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"x": (FLOAT, ["n", 64])},
        {"y": (FLOAT, ["n", 48])},
        {"w": (weight, False)},
        "mapped",
    )
    weight *= 2  # a copy would not notice
    x = RNG.standard_normal((3, 64)).astype(np.float32)
    np.testing.assert_allclose(opened.session.run(None, {"x": x})[0], x @ weight, rtol=1e-5, atol=1e-5)


def test_a_model_that_cannot_be_run_is_refused_with_the_reason():
    with pytest.raises(EngineError, match=r"ONNX Runtime refuses a part of the engine: .*NoSuchOperator"):
        session_of([helper.make_node("NoSuchOperator", ["x"], ["y"])], {"x": vector(2)}, {"y": vector(2)})


def test_engines_may_outlive_everything_around_them():
    log = Log()
    model, plan = feed_forward_plan()
    engine = trt.Runtime(log).deserialize_cuda_engine(bytes(plan))
    del plan
    context = engine.create_execution_context()
    del engine
    x, y = np.ones((2, 16), np.float32), np.empty((2, 16), np.float32)
    context.set_input_shape("x", x.shape)
    assert context.execute_v2([x.ctypes.data, y.ctypes.data])
    np.testing.assert_allclose(y, model.run(x), rtol=1e-5, atol=1e-5)
