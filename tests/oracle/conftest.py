"""One-layer networks from arrays: what the oracle says of them."""

import pytest
import zoo

from trtllm_ext.oracle import evaluate


@pytest.fixture(scope="session")
def trt():
    import trtllm_ext.embedded

    return trtllm_ext.embedded


@pytest.fixture(scope="session")
def builder(trt):
    return trt.Builder(trt.Logger(trt.Logger.ERROR))


@pytest.fixture
def new_network(trt, builder):
    def make(*, strongly_typed=True):
        flag = int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        return builder.create_network(1 << flag if strongly_typed else 0)

    return make


@pytest.fixture
def oracle(trt, new_network):
    """oracle(define, *arrays): the value of the tensor that define(network, *inputs) returns."""
    type_names = {numpy_type: name for name, numpy_type in zoo.NUMPY.items()}

    def evaluated(define, *arrays, strongly_typed=True):
        network = new_network(strongly_typed=strongly_typed)
        names = [f"x{i}" for i in range(len(arrays))]
        inputs = [
            network.add_input(name, getattr(trt.DataType, type_names[array.dtype]), array.shape)
            for name, array in zip(names, arrays, strict=True)
        ]
        tensor = define(network, *inputs)
        tensor.name = "y"
        network.mark_output(tensor)
        return evaluate(network, trt, dict(zip(names, arrays, strict=True)))["y"]

    return evaluated
