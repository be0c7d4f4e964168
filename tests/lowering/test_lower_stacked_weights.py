"""One matrix out of a stack of constants, as a mixture of experts picks them: the same memory, and a plain weight."""

import numpy as np
import pytest
from lowered_net import FLOATS, NUMPY, Net, run_segment, same_bits
from sampling import covered

BUDGET_S = 3

STACK, OUT, IN = 3, 32, 24


def stacked(type_name, *shape):
    return np.random.default_rng(3).standard_normal(shape).astype(NUMPY[type_name])


def part_of(net, stack, index, index_type="INT32", axis=0):
    return net.op("gather", stack, net.constant(np.array(index, NUMPY[index_type])), axis)


@covered(type_name=FLOATS, index_type=["INT32", "INT64"], index=[0, 2, -1])
def test_a_part_borrows_its_memory(type_name, index_type, index):
    array = stacked(type_name, STACK, OUT, IN)
    net = Net()
    net.mark(part_of(net, net.constant(array), index, index_type))
    segment = net.segment()
    assert [node.op_type for node in segment.model.graph.node if node.op_type == "Gather"] == []
    (weight,) = segment.weights
    assert weight.shape == (OUT, IN) and weight.data.ctypes.data == array[index].ctypes.data
    same_bits(run_segment(segment, {})["y"], array[index])


def test_parts_and_the_whole_side_by_side():
    array = stacked("FLOAT", STACK, OUT, IN)
    net = Net()
    stack = net.constant(array)
    net.mark(net.op("identity", stack), "whole")
    for index in range(STACK):
        net.mark(net.op("identity", part_of(net, stack, index)), f"part{index}")
    got = net.run({})
    same_bits(got["whole"], array)
    for index in range(STACK):
        same_bits(got[f"part{index}"], array[index])


def test_a_stack_of_one():
    array = stacked("FLOAT", 1, OUT, IN)
    net = Net()
    stack = net.constant(array)
    net.mark(net.op("identity", stack), "whole")
    net.mark(net.op("identity", part_of(net, stack, 0)), "part")
    assert len(net.segment().weights) == 1
    same_bits(net.run({})["part"], array[0])


def test_a_product_and_its_bias_become_one_gemm():
    weights, biases = stacked("FLOAT", STACK, OUT, IN), stacked("FLOAT", STACK, 1, OUT)
    x = stacked("FLOAT", 5, IN)
    net = Net()
    operations = net.trt.MatrixOperation
    a, weight = net.input("a", "FLOAT", (-1, IN)), part_of(net, net.constant(weights), 1)
    product = net.op("matrix_multiply", a, operations.NONE, weight, operations.TRANSPOSE)
    bias = part_of(net, net.constant(biases), 1)
    net.mark(net.op("elementwise", product, bias, net.trt.ElementWiseOperation.SUM))
    assert [node.op_type for node in net.segment().model.graph.node] == ["Gemm"]
    np.testing.assert_allclose(net.run({"a": x})["y"], x @ weights[1].T + biases[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1])
def test_numbers_and_other_axes(axis):
    """A single number of a vector, and a part that is not one piece of memory."""
    vector, array = stacked("FLOAT", STACK), stacked("FLOAT", STACK, OUT, IN)
    net = Net()
    net.mark(part_of(net, net.constant(vector), 1), "number")
    net.mark(part_of(net, net.constant(array), 1, axis=axis), "part")
    got = net.run({})
    same_bits(got["number"], vector[1])
    same_bits(got["part"], array.take(1, axis))
