"""The oracle's sums, softmax, normalisations and products against torch in float64."""

import math

import numpy as np
import pytest
import torch
from zoo.case import FLOATS, INTS, constant, made, sample
from zoo.reducing import MATRICES

BUDGET_S = 10


def as_torch(array):
    return torch.from_numpy(np.asarray(array, np.float64))


def close(got, want):
    assert got.dtype == np.float64
    assert got.shape == tuple(want.shape)
    np.testing.assert_allclose(got, want.numpy(), rtol=1e-12, atol=1e-14)


def axes_of(mask):
    return tuple(axis for axis in range(8) if mask >> axis & 1)


def reducer(trt, op, mask, keep):
    return lambda network, x: made(network.add_reduce(x, getattr(trt.ReduceOperation, op), mask, keep))


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("mask", [0b001, 0b010, 0b101, 0b111])
@pytest.mark.parametrize("op", ["SUM", "AVG", "MAX", "MIN"])
def test_float_reduce(trt, oracle, op, mask, keep):
    x = sample("x", "FLOAT", (3, 4, 5))
    function = {"SUM": torch.sum, "AVG": torch.mean, "MAX": torch.amax, "MIN": torch.amin}[op]
    close(oracle(reducer(trt, op, mask, keep), x), function(as_torch(x), dim=axes_of(mask), keepdim=keep))


@pytest.mark.parametrize("keep", [False, True])
def test_float_product(trt, oracle, keep):
    x = sample("x", "HALF", (3, 4, 5), "nonzero")
    close(oracle(reducer(trt, "PROD", 0b010, keep), x), torch.prod(as_torch(x), dim=1, keepdim=keep))


@pytest.mark.parametrize("type_name", INTS)
@pytest.mark.parametrize(
    ("op", "want"),
    [
        ("SUM", sum),
        ("PROD", math.prod),
        ("MAX", max),
        ("MIN", min),
        ("AVG", lambda row: math.trunc(sum(row) / len(row))),
    ],
)
def test_integer_reduce_is_exact(trt, oracle, op, want, type_name):
    x = sample("x", type_name, (9, 4), "nonzero")
    got = oracle(reducer(trt, op, 0b10, False), x)
    assert got.dtype == x.dtype
    np.testing.assert_array_equal(got, [want([int(v) for v in row]) for row in x])


@pytest.mark.parametrize(
    ("op", "of_floats", "of_integers"),
    [
        ("SUM", 0.0, 0),
        ("PROD", 1.0, 1),
        ("MAX", -np.inf, -(2**31)),
        ("MIN", np.inf, 2**31 - 1),
        ("AVG", np.nan, 0),
    ],
)
def test_reducing_nothing(trt, oracle, op, of_floats, of_integers):
    floats, integers = np.zeros((0, 2), np.float32), np.zeros((0, 2), np.int32)
    np.testing.assert_array_equal(oracle(reducer(trt, op, 0b01, False), floats), [of_floats] * 2)
    np.testing.assert_array_equal(oracle(reducer(trt, op, 0b01, False), integers), [of_integers] * 2)


@pytest.mark.parametrize(("mask", "axis"), [(None, 0), (0b001, 0), (0b010, 1), (0b100, 2)])
def test_softmax(trt, oracle, mask, axis):
    x = sample("x", "BF16", (2, 3, 5), "wide")

    def define(network, tensor):
        layer = network.add_softmax(tensor)
        if mask is not None:
            layer.axes = mask
        return made(layer)

    close(oracle(define, x), torch.softmax(as_torch(x), dim=axis))


def test_softmax_of_large_numbers(trt, oracle):
    def define(network, tensor):
        layer = network.add_softmax(tensor)
        layer.axes = 0b10
        return made(layer)

    got = oracle(define, np.array([[3e38, 3e38]], np.float32))
    np.testing.assert_array_equal(got, [[0.5, 0.5]])


def normaliser(trt, mask, scale, bias, *, groups=1, epsilon=1e-3, type_name="FLOAT"):
    def define(network, x):
        scales, biases = constant(network, trt, scale, type_name), constant(network, trt, bias, type_name)
        layer = network.add_normalization(x, scales, biases, mask)
        layer.epsilon, layer.num_groups = epsilon, groups
        return made(layer)

    return define


def normal_close(got, want):
    # epsilon is a float32 attribute.
    np.testing.assert_allclose(got, want.numpy(), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("type_name", FLOATS)
def test_layer_normalisation(trt, oracle, type_name):
    x = sample("x", type_name, (2, 3, 8), "wide")
    scale, bias = sample("s", type_name, (1, 1, 8)), sample("b", type_name, (1, 1, 8))
    want = torch.layer_norm(as_torch(x), (8,), as_torch(scale[0, 0]), as_torch(bias[0, 0]), 1e-3)
    normal_close(oracle(normaliser(trt, 0b100, scale, bias, type_name=type_name), x), want)


def test_instance_normalisation(trt, oracle):
    x = sample("x", "FLOAT", (2, 4, 3, 5), "wide")
    scale, bias = sample("s", "FLOAT", (1, 4, 1, 1)), sample("b", "FLOAT", (1, 4, 1, 1))
    flat = (as_torch(scale.reshape(-1)), as_torch(bias.reshape(-1)))
    want = torch.nn.functional.instance_norm(as_torch(x), weight=flat[0], bias=flat[1], eps=1e-3)
    normal_close(oracle(normaliser(trt, 0b1100, scale, bias), x), want)


def test_group_normalisation_scales_by_group(trt, oracle):
    x = sample("x", "FLOAT", (2, 6, 3, 2), "wide")
    scale, bias = sample("s", "FLOAT", (1, 2, 1, 1)), sample("b", "FLOAT", (1, 2, 1, 1))
    per_channel = [as_torch(np.repeat(v.reshape(-1), 3)) for v in (scale, bias)]
    want = torch.nn.functional.group_norm(as_torch(x), 2, *per_channel, eps=1e-3)
    normal_close(oracle(normaliser(trt, 0b1100, scale, bias, groups=2), x), want)


EINSUM = {
    ("NONE", "NONE"): "bmk,bkn->bmn",
    ("NONE", "TRANSPOSE"): "bmk,bnk->bmn",
    ("TRANSPOSE", "NONE"): "bkm,bkn->bmn",
    ("TRANSPOSE", "TRANSPOSE"): "bkm,bnk->bmn",
    ("NONE", "VECTOR"): "bmk,bk->bm",
    ("VECTOR", "NONE"): "bk,bkn->bn",
    ("VECTOR", "TRANSPOSE"): "bk,bnk->bn",
    ("TRANSPOSE", "VECTOR"): "bkm,bk->bm",
    ("VECTOR", "VECTOR"): "bk,bk->b",
}


@pytest.mark.parametrize("ops", EINSUM)
def test_matrix_products(trt, oracle, ops):
    assert set(EINSUM) == set(MATRICES)
    shapes = [(2, *(4 if length == -1 else length for length in shape)) for shape in MATRICES[ops]]
    a, b = sample("a", "FLOAT", shapes[0]), sample("b", "FLOAT", shapes[1])
    op0, op1 = (getattr(trt.MatrixOperation, op) for op in ops)
    got = oracle(lambda n, x, y: made(n.add_matrix_multiply(x, op0, y, op1)), a, b)
    close(got, torch.einsum(EINSUM[ops], as_torch(a), as_torch(b)))


def test_matrix_products_broadcast_leading_dimensions(trt, oracle):
    a, b = sample("a", "FLOAT", (2, 1, 3, 4)), sample("b", "FLOAT", (1, 5, 4, 2))
    none = trt.MatrixOperation.NONE
    got = oracle(lambda n, x, y: made(n.add_matrix_multiply(x, none, y, none)), a, b)
    close(got, torch.matmul(as_torch(a), as_torch(b)))
