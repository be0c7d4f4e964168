"""The oracle's shuffle, concatenation, shape, constant and fill against numpy and by hand."""

import numpy as np
import pytest
import zoo
from zoo.case import FLOATS, NUMBERS, constant, made, sample

from trtllm_ext.oracle import OracleError

BUDGET_S = 10


def shuffler(trt, *, first=None, reshape=None, second=None, zero_is_placeholder=None):
    def define(network, x):
        layer = network.add_shuffle(x)
        if first is not None:
            layer.first_transpose = trt.Permutation(first)
        if reshape is not None:
            layer.reshape_dims = reshape
        if second is not None:
            layer.second_transpose = trt.Permutation(second)
        if zero_is_placeholder is not None:
            layer.zero_is_placeholder = zero_is_placeholder
        return made(layer)

    return define


@pytest.mark.parametrize("type_name", zoo.NUMPY)
def test_the_three_steps_of_a_shuffle(trt, oracle, type_name):
    x = sample("x", type_name, (2, 3, 8))
    got = oracle(shuffler(trt, first=(2, 0, 1), reshape=(4, 2, 6), second=(1, 2, 0)), x)
    want = x.transpose(2, 0, 1).reshape(4, 2, 6).transpose(1, 2, 0)
    np.testing.assert_array_equal(got, want.astype(np.float64) if type_name in FLOATS else want)


@pytest.mark.parametrize(
    ("given", "reshape", "want"),
    [
        ((2, 3, 4), (0, -1), (2, 12)),
        ((2, 3, 4), (-1, 0, 2), (4, 3, 2)),
        ((2, 3, 4), (-1,), (24,)),
        ((1, 1), (), ()),
        ((), (1, 1), (1, 1)),
        ((0, 4), (-1,), (0,)),
        ((0, 4), (0, 2, 2), (0, 2, 2)),
        ((2, 3), (2, 3, 1), (2, 3, 1)),
    ],
)
def test_reshape_dimensions(trt, oracle, given, reshape, want):
    assert oracle(shuffler(trt, reshape=reshape), np.zeros(given, np.float32)).shape == want


def test_zero_copies_from_the_transposed_input(trt, oracle):
    x = sample("x", "FLOAT", (2, 3, 4))
    got = oracle(shuffler(trt, first=(2, 1, 0), reshape=(0, -1)), x)
    np.testing.assert_array_equal(got, x.transpose(2, 1, 0).reshape(4, 6))


def test_zero_can_mean_empty(trt, oracle):
    got = oracle(shuffler(trt, reshape=(0, 7), zero_is_placeholder=False), np.zeros((0, 3), np.float32))
    assert got.shape == (0, 7)


@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_a_reshape_by_tensor(trt, oracle, index):
    x = sample("x", "FLOAT", (4, 6))

    def define(network, data):
        layer = network.add_shuffle(data)
        name = "INT32" if index is np.int32 else "INT64"
        layer.set_input(1, constant(network, trt, np.array([8, -1]), name))
        return made(layer)

    np.testing.assert_array_equal(oracle(define, x), x.reshape(8, 3))


@pytest.mark.parametrize(("axis", "used"), [(None, 0), (0, 0), (1, 1), (2, 2)])
def test_concatenation(trt, oracle, axis, used):
    x = sample("x", "FLOAT", (2, 3, 4))

    def define(network, a, b):
        layer = network.add_concatenation([a, b])
        if axis is not None:
            layer.axis = axis
        return made(layer)

    np.testing.assert_array_equal(oracle(define, x, x), np.concatenate([x, x], axis=used))


def test_shape_is_int64(trt, oracle):
    got = oracle(lambda network, x: made(network.add_shape(x)), np.zeros((3, 0, 5), np.float16))
    assert got.dtype == np.int64
    assert got.tolist() == [3, 0, 5]


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 0)])
@pytest.mark.parametrize("type_name", NUMBERS)
def test_constants_of_every_type(trt, oracle, type_name, shape):
    values = sample("c", type_name, shape)
    got = oracle(lambda network, x: constant(network, trt, values, type_name), np.zeros(1, np.float32))
    want = values.astype(np.float64) if type_name in FLOATS else values
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("type_name", ["FLOAT", "HALF", "BF16", "INT32", "INT64"])
def test_constants_by_address_are_read_late(trt, oracle, type_name):
    """TensorRT borrows the buffer: what is in it when the network is used counts."""
    buffer = np.zeros(4, zoo.NUMPY[type_name])

    def define(network, x):
        weights = trt.Weights(getattr(trt.DataType, type_name), buffer.ctypes.data, buffer.size)
        tensor = made(network.add_constant((2, 2), weights))
        buffer[:] = [1, 2, 3, 4]
        return tensor

    np.testing.assert_array_equal(oracle(define, np.zeros(1, np.float32)), [[1, 2], [3, 4]])


def test_linspace_is_the_documented_example(trt, oracle):
    def define(network, x):
        layer = network.add_fill((3, 4), trt.FillOperation.LINSPACE, trt.int32)
        layer.set_input(0, constant(network, trt, np.array([3, 4]), "INT64"))
        layer.set_input(1, constant(network, trt, np.array(1), "INT32"))
        layer.set_input(2, constant(network, trt, np.array([100, 10]), "INT32"))
        return made(layer)

    got = oracle(define, np.zeros(1, np.float32))
    assert got.dtype == np.int32
    assert got.tolist() == [[1, 11, 21, 31], [101, 111, 121, 131], [201, 211, 221, 231]]


@pytest.mark.parametrize(
    ("type_name", "start", "step"), [("FLOAT", 0.5, 0.25), ("INT32", 7, -2), ("INT64", 0, 3)]
)
def test_static_linspace(trt, oracle, type_name, start, step):
    def define(network, x):
        layer = network.add_fill((5,), trt.FillOperation.LINSPACE, getattr(trt.DataType, type_name))
        layer.alpha, layer.beta = start, step
        return made(layer)

    got = oracle(define, np.zeros(1, np.float32))
    assert got.tolist() == [start + step * i for i in range(5)]


def test_random_fills_are_refused(trt, oracle):
    def define(network, x):
        return made(network.add_fill((5,), trt.FillOperation.RANDOM_UNIFORM, trt.float32))

    with pytest.raises(OracleError, match="random"):
        oracle(define, np.zeros(1, np.float32))
