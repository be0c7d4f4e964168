"""Engines with loops and conditionals: their weights in both load modes, through a plan."""

import mmap

import numpy as np
import pytest

import trtllm_ext.embedded as trt
from trtllm_ext.embedded.plan.onnx_model import lasting_initializers
from trtllm_ext.lowering import lower

BUDGET_S = 4
SIZE = 300
TYPES = {"FLOAT": np.float32, "HALF": np.float16}


def defined(builder, type_name):
    """x @ A + C three times over in a loop, then @ B in one branch and @ (B + B) in the other."""
    strongly = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(strongly)
    dtype, none = TYPES[type_name], trt.MatrixOperation.NONE
    x = network.add_input("x", getattr(trt, f"float{dtype().itemsize * 8}"), (2, SIZE))
    condition = network.add_input("condition", trt.bool, ())
    arrays = [np.full((SIZE, SIZE), number / SIZE, dtype) for number in (1.0, 2.0)]
    arrays.append(np.ones((2, SIZE), dtype))
    a, b, c = (network.add_constant(array.shape, array).get_output(0) for array in arrays)
    loop = network.add_loop()
    three = np.array(3, np.int32)
    loop.add_trip_limit(network.add_constant((), three).get_output(0), trt.TripLimit.COUNT)
    state = loop.add_recurrence(x)
    product = network.add_matrix_multiply(state.get_output(0), none, a, none).get_output(0)
    state.set_input(1, network.add_elementwise(product, c, trt.ElementWiseOperation.SUM).get_output(0))
    after = loop.add_loop_output(state.get_output(0), trt.LoopOutput.LAST_VALUE).get_output(0)
    choice = network.add_if_conditional()
    choice.set_condition(condition)
    after = choice.add_input(after).get_output(0)
    twice = network.add_elementwise(b, b, trt.ElementWiseOperation.SUM).get_output(0)
    once, doubled = (network.add_matrix_multiply(after, none, one, none).get_output(0) for one in (b, twice))
    output = choice.add_output(once, doubled).get_output(0)
    output.name = "y"
    network.mark_output(output)
    return network, [*arrays, three]


def run(context, type_name, condition):
    x = np.ones((2, SIZE), TYPES[type_name])
    y, given = np.zeros_like(x), np.array(condition)
    for name, array in (("x", x), ("y", y), ("condition", given)):
        assert context.set_tensor_address(name, array.ctypes.data)
    assert context.execute_async_v3(0)
    return y


@pytest.mark.parametrize("mode", ["prepack", "mapped"])
@pytest.mark.parametrize("type_name", TYPES)
def test_weights_inside_loops_and_branches(type_name, mode):
    """A prepacked engine has no more need of its plan: overwriting that changes nothing."""
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network, _alive = defined(builder, type_name)
    serialized = builder.build_serialized_network(network, builder.create_builder_config())
    plan = mmap.mmap(-1, serialized.nbytes)
    plan[:] = bytes(serialized)
    runtime = trt.Runtime(logger)
    runtime.load_mode = mode
    engine = runtime.deserialize_cuda_engine(plan)
    context = engine.create_execution_context()
    if mode == "prepack":
        plan[:] = bytes(len(plan))
    for condition, want in ((True, 8.0), (False, 16.0)):
        np.testing.assert_allclose(run(context, type_name, condition), want, rtol=2e-3)


def test_what_graphs_inside_read_counts_as_read():
    """Weights that only loops and branches read outlive the plan, too."""
    network, _alive = defined(trt.Builder(trt.Logger(trt.Logger.ERROR)), "FLOAT")
    (segment,) = lower(network, trt).steps
    names = {weight.name for weight in segment.weights}
    assert names and lasting_initializers(memoryview(segment.model.SerializeToString())) == names
