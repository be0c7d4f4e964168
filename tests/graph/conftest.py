"""Small networks written through `trtllm_ext.graph`, run by the oracle and by the embedded engine."""

import numpy as np
import pytest

import trtllm_ext.embedded as trt
from trtllm_ext.graph.dtypes import np_dtype_to_trt, trt_dtype_to_np
from trtllm_ext.graph.network import Network, net_guard
from trtllm_ext.graph.tensor import Tensor
from trtllm_ext.oracle import evaluate
from trtllm_ext.runtime.trt_log import recording_logger


@pytest.fixture(autouse=True)
def embedded_backend(monkeypatch):
    monkeypatch.setenv("TRTLLM_EXT_BACKEND", "embedded")


@pytest.fixture
def make_network():
    """make_network(strongly_typed=True): an empty Network; its Builder lives as long as the test."""
    builders = []

    def make(strongly_typed=True):
        logger = recording_logger(trt)
        builder = trt.Builder(logger.given)
        builders.append(builder)
        flag = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = Network(builder.create_network(flag if strongly_typed else 0), logger)
        network.test_builder = builder
        return network

    return make


@pytest.fixture
def guarded(make_network):
    """An empty Network inside its net_guard, with a factory for inputs: (network, add_input)."""
    network = make_network()
    with net_guard(network):
        yield network, lambda name, dtype, shape: Tensor(name, dtype, shape)


def run_embedded(network, arrays):
    """Outputs of the embedded engine, by name; inputs that vary are allowed exactly the arrays' shapes."""
    builder = network.test_builder
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for name, array in arrays.items():
        profile.set_shape(name, array.shape, array.shape, array.shape)
        if any(tensor.name == name and tensor.trt_tensor.is_shape_tensor for tensor in network.get_inputs()):
            profile.set_shape_input(name, *[array.tolist()] * 3)
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network.trt_network, config)
    assert plan is not None, network._logger.errors
    engine = trt.Runtime(network._logger).deserialize_cuda_engine(plan)
    context = engine.create_execution_context()
    held = {name: np.array(array, order="C") for name, array in arrays.items()}
    for name, array in held.items():
        assert context.set_input_shape(name, array.shape), network._logger.errors
        context.set_tensor_address(name, array.ctypes.data)
    results = {}
    for tensor in network.get_outputs():
        dtype = trt_dtype_to_np(engine.get_tensor_dtype(tensor.name))
        results[tensor.name] = np.zeros(tuple(context.get_tensor_shape(tensor.name)), dtype)
        context.set_tensor_address(tensor.name, results[tensor.name].ctypes.data)
    assert context.execute_async_v3(0), network._logger.errors
    return results


def run_oracle(network, arrays):
    """Outputs of the float64 interpreter, by name, rounded to the outputs' types."""
    results = evaluate(network.trt_network, trt, arrays)
    with np.errstate(over="ignore"):
        return {
            tensor.name: results[tensor.name].astype(trt_dtype_to_np(tensor.dtype))
            for tensor in network.get_outputs()
        }


@pytest.fixture(params=[run_oracle, run_embedded], ids=["oracle", "embedded"])
def run(request, make_network):
    """run(define, *arrays, shapes=None, strongly_typed=True): what define(*tensors) computes, as arrays.

    define returns one Tensor or several; shapes declares inputs (with -1 for what varies), by default the arrays' own.
    """
    return _evaluator(make_network, request.param)


@pytest.fixture
def run_rounded(make_network):
    """As `run`, by the embedded engine alone: the oracle does not round between layers."""
    return _evaluator(make_network, run_embedded)


def _evaluator(make_network, runner):
    def evaluated(define, *arrays, shapes=None, strongly_typed=True):
        arrays = [np.asarray(array) for array in arrays]
        network = make_network(strongly_typed)
        with net_guard(network):
            tensors = [
                Tensor(f"x{i}", np_dtype_to_trt(array.dtype), array.shape if shapes is None else shapes[i])
                for i, array in enumerate(arrays)
            ]
            outputs = define(*tensors)
            single = isinstance(outputs, Tensor)
            outputs = [outputs] if single else list(outputs)
            for i, tensor in enumerate(outputs):
                tensor.mark_output(f"y{i}")
        results = runner(network, {f"x{i}": array for i, array in enumerate(arrays)})
        ordered = [results[f"y{i}"] for i in range(len(outputs))]
        for tensor, array in zip(network.get_outputs(), ordered, strict=True):
            assert len(tensor.shape) == array.ndim
            assert all(known in (-1, real) for known, real in zip(tensor.shape, array.shape, strict=True))
        return ordered[0] if single else ordered

    return evaluated
