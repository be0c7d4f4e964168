"""The oracle's element-by-element layers against torch in float64 and Python's integers."""

import math
import operator

import numpy as np
import pytest
import torch
import zoo.pointwise
from zoo.case import FLOATS, INTS, made, sample

BUDGET_S = 10

TORCH_BINARY = {
    "SUM": torch.add, "PROD": torch.mul, "MAX": torch.maximum, "MIN": torch.minimum, "SUB": torch.sub,
    "DIV": torch.div, "POW": torch.pow, "FLOOR_DIV": torch.floor_divide,
    "EQUAL": torch.eq, "GREATER": torch.gt, "LESS": torch.lt,
}  # fmt: skip
PYTHON_BINARY = {
    "SUM": operator.add, "PROD": operator.mul, "MAX": max, "MIN": min, "SUB": operator.sub,
    "DIV": lambda a, b: math.trunc(a / b), "POW": operator.pow, "FLOOR_DIV": operator.floordiv,
    "EQUAL": operator.eq, "GREATER": operator.gt, "LESS": operator.lt,
    "AND": operator.and_, "OR": operator.or_, "XOR": operator.xor,
}  # fmt: skip
TORCH_UNARY = {
    "EXP": torch.exp, "LOG": torch.log, "SQRT": torch.sqrt, "RECIP": torch.reciprocal, "ABS": torch.abs,
    "NEG": torch.neg, "SIN": torch.sin, "COS": torch.cos, "TAN": torch.tan, "SINH": torch.sinh,
    "COSH": torch.cosh, "ASIN": torch.asin, "ACOS": torch.acos, "ATAN": torch.atan, "ASINH": torch.asinh,
    "ACOSH": torch.acosh, "ATANH": torch.atanh, "CEIL": torch.ceil, "FLOOR": torch.floor, "ERF": torch.erf,
    "SIGN": torch.sign, "ROUND": torch.round, "ISINF": torch.isinf, "ISNAN": torch.isnan,
}  # fmt: skip
nn = torch.nn.functional
TORCH_ACTIVATION = {
    "RELU": lambda x, a, b: nn.relu(x),
    "SIGMOID": lambda x, a, b: nn.sigmoid(x),
    "TANH": lambda x, a, b: torch.tanh(x),
    "LEAKY_RELU": lambda x, a, b: nn.leaky_relu(x, a),
    "ELU": lambda x, a, b: nn.elu(x, a),
    "SELU": lambda x, a, b: b * nn.elu(x, a),
    "SOFTSIGN": lambda x, a, b: nn.softsign(x),
    "SOFTPLUS": lambda x, a, b: a * torch.log1p(torch.exp(b * x)),
    "CLIP": lambda x, a, b: torch.clamp(x, a, b),
    "HARD_SIGMOID": lambda x, a, b: torch.clamp(a * x + b, 0, 1),
    "SCALED_TANH": lambda x, a, b: a * torch.tanh(b * x),
    "THRESHOLDED_RELU": lambda x, a, b: nn.threshold(x, a, 0.0),
    "GELU_ERF": lambda x, a, b: nn.gelu(x),
    "GELU_TANH": lambda x, a, b: nn.gelu(x, approximate="tanh"),
}


def as_torch(array):
    return torch.from_numpy(np.asarray(array, np.float64))


def close(got, want):
    assert got.dtype == (np.float64 if want.dtype == torch.float64 else np.bool_)
    np.testing.assert_allclose(got, want.numpy(), rtol=1e-13, atol=1e-15)


def elementwise(trt, op):
    return lambda network, a, b: made(network.add_elementwise(a, b, getattr(trt.ElementWiseOperation, op)))


def unary(trt, op):
    return lambda network, x: made(network.add_unary(x, getattr(trt.UnaryOperation, op)))


def test_the_references_cover_every_operation(trt):
    assert set(PYTHON_BINARY) == set(trt.ElementWiseOperation.__members__)
    assert set(TORCH_UNARY) | {"NOT"} == set(trt.UnaryOperation.__members__)
    assert set(TORCH_ACTIVATION) == set(trt.ActivationType.__members__)


@pytest.mark.parametrize("type_name", FLOATS)
@pytest.mark.parametrize("op", TORCH_BINARY)
def test_float_binary(trt, oracle, op, type_name):
    domains = zoo.pointwise.ARITHMETIC.get(op, ("whole", "whole"))
    a = sample("a", type_name, (4, 1, 5), domains[0])
    b = sample("b", type_name, (1, 3, 5), domains[1])
    close(oracle(elementwise(trt, op), a, b), TORCH_BINARY[op](as_torch(a), as_torch(b)))


@pytest.mark.parametrize("type_name", INTS)
@pytest.mark.parametrize("op", [op for op in PYTHON_BINARY if op not in ("AND", "OR", "XOR")])
def test_integer_binary_is_exact(trt, oracle, op, type_name):
    a = sample("a", type_name, (30,))
    b = sample("b", type_name, (30,), "exponent" if op == "POW" else "nonzero")
    got = oracle(elementwise(trt, op), a, b)
    want = [PYTHON_BINARY[op](int(x), int(y)) for x, y in zip(a, b, strict=True)]
    assert got.dtype == (np.bool_ if op in ("EQUAL", "GREATER", "LESS") else a.dtype)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("op", ["AND", "OR", "XOR", "EQUAL"])
def test_boolean_binary(trt, oracle, op):
    a = np.array([True, True, False, False])
    b = np.array([True, False, True, False])
    got = oracle(elementwise(trt, op), a, b)
    np.testing.assert_array_equal(
        got, [PYTHON_BINARY[op](bool(x), bool(y)) for x, y in zip(a, b, strict=True)]
    )


def test_integers_beyond_float64_stay_exact_and_wrap(trt, oracle):
    big = np.array([2**62 + 1, 2**63 - 1], np.int64)
    one = np.array([1, 1], np.int64)
    np.testing.assert_array_equal(oracle(elementwise(trt, "SUM"), big, one), [2**62 + 2, -(2**63)])
    np.testing.assert_array_equal(oracle(elementwise(trt, "FLOOR_DIV"), big, one), big)


@pytest.mark.parametrize("type_name", FLOATS)
@pytest.mark.parametrize("op", TORCH_UNARY)
def test_float_unary(trt, oracle, op, type_name):
    x = sample("x", type_name, (40,), zoo.pointwise.UNARY_DOMAINS[op])
    close(oracle(unary(trt, op), x), TORCH_UNARY[op](as_torch(x)))


@pytest.mark.parametrize("type_name", INTS)
@pytest.mark.parametrize(("op", "want"), [("ABS", abs), ("NEG", operator.neg), ("SIGN", np.sign)])
def test_integer_unary(trt, oracle, op, want, type_name):
    x = sample("x", type_name, (20,))
    got = oracle(unary(trt, op), x)
    assert got.dtype == x.dtype
    np.testing.assert_array_equal(got, [want(int(v)) for v in x])


def test_not(trt, oracle):
    np.testing.assert_array_equal(oracle(unary(trt, "NOT"), np.array([True, False])), [False, True])


def test_erf_to_the_last_place(trt, oracle):
    x = np.linspace(-6, 6, 2001).astype(np.float32)
    want = [math.erf(float(v)) for v in x]
    np.testing.assert_array_max_ulp(oracle(unary(trt, "ERF"), x), np.array(want), maxulp=0)


@pytest.mark.parametrize("kind", TORCH_ACTIVATION)
def test_activation(trt, oracle, kind):
    parameters = zoo.pointwise.ACTIVATIONS[kind]
    x = sample("x", "FLOAT", (60,), "wide")

    def define(network, tensor):
        layer = network.add_activation(tensor, getattr(trt.ActivationType, kind))
        if parameters is not None:
            layer.alpha, layer.beta = parameters
        return made(layer)

    alpha, beta = (np.float64(np.float32(v)) for v in parameters or (0.0, 0.0))
    got = oracle(define, x)
    # An attribute may have gone through float32 on its way.
    np.testing.assert_allclose(got, TORCH_ACTIVATION[kind](as_torch(x), alpha, beta), rtol=3e-7, atol=1e-15)


@pytest.mark.parametrize("kind", ["SIGMOID", "TANH", "GELU_ERF", "GELU_TANH", "SOFTSIGN"])
def test_activations_survive_large_arguments(trt, oracle, kind):
    x = np.array([-1e30, -800.0, 0.0, 800.0, 1e30], np.float32)
    got = oracle(lambda n, t: made(n.add_activation(t, getattr(trt.ActivationType, kind))), x)
    assert np.isfinite(got).all()


def test_the_two_gelus_differ(trt, oracle):
    x = np.array([2.0], np.float32)
    erf, tanh = (
        oracle(lambda n, t, k=kind: made(n.add_activation(t, getattr(trt.ActivationType, k))), x)
        for kind in ("GELU_ERF", "GELU_TANH")
    )
    assert 1e-5 < abs(erf - tanh)[0] < 1e-2


def test_select_broadcasts(trt, oracle):
    condition = np.array([[True], [False]])
    then, other = np.array([[1, 2, 3]], np.int32), np.array([[-1, -2, -3], [-4, -5, -6]], np.int32)
    got = oracle(lambda n, c, a, b: made(n.add_select(c, a, b)), condition, then, other)
    np.testing.assert_array_equal(got, [[1, 2, 3], [-4, -5, -6]])


@pytest.mark.parametrize("target", zoo.NUMPY)
@pytest.mark.parametrize("source", zoo.NUMPY)
def test_cast(trt, oracle, source, target):
    x = sample("x", source, (20,), "halves" if source in FLOATS else "normal")
    got = oracle(lambda n, t: made(n.add_cast(t, getattr(trt.DataType, target))), x)
    wide = [float(v) for v in x]
    if target in (*FLOATS, "FP8"):
        assert got.dtype == np.float64
        np.testing.assert_array_equal(got, wide)
    elif target == "BOOL":
        np.testing.assert_array_equal(got, [v != 0 for v in wide])
    else:
        assert got.dtype == zoo.NUMPY[target]
        np.testing.assert_array_equal(got, [math.trunc(v) for v in wide])


def test_a_cast_to_a_narrow_type_does_not_round(trt, oracle):
    x = np.array([1 + 2**-20], np.float32)
    assert oracle(lambda n, t: made(n.add_cast(t, trt.bfloat16)), x)[0] == x[0]


def test_a_narrowing_integer_cast_wraps(trt, oracle):
    x = np.array([2**31, -(2**31) - 1, 2**32 + 7], np.int64)
    got = oracle(lambda n, t: made(n.add_cast(t, trt.int32)), x)
    np.testing.assert_array_equal(got, [-(2**31), 2**31 - 1, 7])
