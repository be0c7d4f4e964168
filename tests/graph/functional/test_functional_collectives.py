"""allreduce, allgather, reduce_scatter over several ranks: what they refuse, and which layers they add."""

from types import SimpleNamespace

import numpy as np
import pytest

import trtllm_ext.graph.functional as fn
from trtllm_ext import backend
from trtllm_ext.errors import GraphError
from trtllm_ext.graph.functional import collectives

BUDGET_S = 3


@pytest.fixture
def x(guarded):
    return guarded[1]("x", "float32", [4, 3])


OPERATIONS = [fn.allreduce, fn.allgather, fn.reduce_scatter]


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    ("group", "text"),
    [
        ([], "over an empty group"),
        (2, r"group=2; it takes the list of ranks, as in \[0, 1\]"),
        ([0, -1], r"\[0, -1\]: -1 is no rank, which is a whole number from 0 on"),
        ([0, 1.0], "1.0 is no rank"),
        ([True], "True is no rank"),
        ([1, 0, 1], r"\[1, 0, 1\], in which rank 1 is twice"),
    ],
)
def test_groups_that_are_none(x, operation, group, text):
    with pytest.raises(GraphError, match=text):
        operation(x, group)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_group_of_one_adds_no_layer(guarded, x, operation):
    before = guarded[0].trt_network.num_layers
    assert operation(x, np.array([3])) is x
    assert guarded[0].trt_network.num_layers == before


@pytest.mark.parametrize(
    ("operation", "plugin"), [*zip(OPERATIONS, ["AllReduce", "AllGather", "ReduceScatter"], strict=True)]
)
def test_a_tensorrt_without_collectives(monkeypatch, guarded, x, operation, plugin):
    classes = type(guarded[0].trt_network).__mro__
    adder = next(each for each in classes if "add_dist_collective" in vars(each))
    monkeypatch.delattr(adder, "add_dist_collective")
    text = rf"over the 2 ranks \[0, 1\] needs a collective layer, .* or {plugin}, .* TensorRT 11 or later, the embedded"
    with pytest.raises(GraphError, match=text):
        operation(x, [0, 1])


def test_lengths_that_do_not_split(guarded, x):
    with pytest.raises(GraphError, match=r"\(4, 3\) does not split into 3 equal parts; pad it to 6"):
        fn.reduce_scatter(x, [0, 1, 2])
    with pytest.raises(GraphError, match="out of range for 0 dimensions"):
        fn.reduce_scatter(guarded[1]("y", "float32", []), [0, 1])
    with pytest.raises(GraphError, match="dimension 2 is out of range"):
        fn.allgather(x, [0, 1], 2)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int32"])
@pytest.mark.parametrize(("operation", "shape"), [*zip(OPERATIONS, [(4, 3), (8, 3), (2, 3)], strict=True)])
def test_layers(guarded, dtype, operation, shape):
    network, add_input = guarded
    result = operation(add_input("x", dtype, [4, 3]), range(2, 4))
    assert (result.shape, result.dtype) == (shape, fn.cast(result, dtype).dtype)
    layers = [network.trt_network.get_layer(i) for i in range(network.trt_network.num_layers)]
    kinds = [str(layer.type).rpartition(".")[2] for layer in layers]
    rounds = operation is not fn.allgather and dtype in ("float16", "bfloat16")
    assert kinds == (["CAST", "DIST_COLLECTIVE", "CAST"] if rounds else ["DIST_COLLECTIVE"])
    layer = layers[kinds.index("DIST_COLLECTIVE")]
    assert layer.num_ranks == 2


@pytest.mark.parametrize("operation", OPERATIONS)
def test_nvidias_engine_sums_in_the_tensors_own_type(monkeypatch, guarded, operation):
    network, add_input = guarded
    tensor = add_input("x", "float16", [4, 3])
    nvidias = SimpleNamespace(
        tensorrt=backend.tensorrt, choice=lambda: backend.Choice("tensorrt", "trtllm_ext", ())
    )
    monkeypatch.setattr(collectives, "backend", nvidias)
    operation(tensor, [0, 1])
    assert network.trt_network.num_layers == 1


@pytest.mark.parametrize("dim", [1, -1])
def test_the_order_of_a_gather_along_the_last_dimension_needs_no_shape_tensors(guarded, dim):
    network, add_input = guarded
    result = fn.allgather(add_input("x", "float32", [-1, 3]), [0, 1], dim)
    assert result.shape == (-1, 6)
    layers = [network.trt_network.get_layer(i) for i in range(network.trt_network.num_layers)]
    assert "SHAPE" not in {str(layer.type).rpartition(".")[2] for layer in layers}
