"""Weakly typed networks: mixed types compute in float32; layer precision and output type are honoured."""

import numpy as np
import pytest
from lowered_net import NARROW, NUMPY, Net, same_bits

BUDGET_S = 10


def numbers(type_name, seed=0):
    return np.random.default_rng(seed).standard_normal((4, 8)).astype(np.float32).astype(NUMPY[type_name])


@pytest.mark.parametrize("first, second", [("FLOAT", "HALF"), ("HALF", "FLOAT")])
def test_mixed_operands_compute_in_float32(first, second):
    a, b = numbers(first), numbers(second, 1)
    net = Net(strongly_typed=False)
    x, z = net.input("a", first, (-1, 8)), net.input("b", second, (4, 8))
    product = net.op("elementwise", x, z, net.trt.ElementWiseOperation.PROD)
    product.dtype = net.trt.float32
    net.mark(product)
    same_bits(net.run({"a": a, "b": b})["y"], a.astype(np.float32) * b.astype(np.float32))


@pytest.mark.parametrize("narrow", NARROW)
def test_layer_precision_rounds_operands_and_result(narrow):
    """precision narrow, output float32: the numbers are those of a narrow layer."""
    a, b = numbers("FLOAT"), numbers("FLOAT", 1)
    net = Net(strongly_typed=False)
    x, z = net.input("a", "FLOAT", (-1, 8)), net.input("b", "FLOAT", (4, 8))
    layer = net.network.add_elementwise(x, z, net.trt.ElementWiseOperation.PROD)
    layer.precision = getattr(net.trt.DataType, narrow)
    layer.set_output_type(0, net.trt.float32)
    net.mark(layer.get_output(0))
    dtype = NUMPY[narrow]
    wide = a.astype(dtype).astype(np.float32) * b.astype(dtype).astype(np.float32)
    same_bits(net.run({"a": a, "b": b})["y"], wide.astype(dtype).astype(np.float32))


def test_float32_precision_of_half_tensors_does_not_round_inside():
    a, b = numbers("HALF"), numbers("HALF", 1)
    net = Net(strongly_typed=False)
    x, z = net.input("a", "HALF", (-1, 8)), net.input("b", "HALF", (4, 8))
    layer = net.network.add_elementwise(x, z, net.trt.ElementWiseOperation.PROD)
    layer.precision = net.trt.float32
    layer.set_output_type(0, net.trt.float32)
    net.mark(layer.get_output(0))
    same_bits(net.run({"a": a, "b": b})["y"], a.astype(np.float32) * b.astype(np.float32))


def test_output_type_rounds_the_result():
    a = numbers("FLOAT")
    net = Net(strongly_typed=False)
    layer = net.network.add_activation(net.input("a", "FLOAT", (-1, 8)), net.trt.ActivationType.RELU)
    layer.set_output_type(0, net.trt.float16)
    net.mark(layer.get_output(0))
    same_bits(net.run({"a": a})["y"], np.maximum(a, 0).astype(np.float16))


def test_half_weights_of_a_float32_product():
    a = np.round(numbers("FLOAT") * 4)
    weight = np.round(numbers("HALF", 1) * 4)
    net = Net(strongly_typed=False)
    operations = net.trt.MatrixOperation
    x = net.input("a", "FLOAT", (-1, 8))
    product = net.op("matrix_multiply", x, operations.NONE, net.constant(weight), operations.TRANSPOSE)
    product.dtype = net.trt.float32
    net.mark(product)
    same_bits(net.run({"a": a})["y"], a @ weight.astype(np.float32).T)
