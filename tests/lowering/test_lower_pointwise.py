"""Elementwise, unary and activation layers: every operation in every type, against numpy."""

import math

import numpy as np
import pytest
from lowered_net import FLOATS, INTS, NUMPY, Net, same_bits
from sampling import covered

from trtllm_ext.lowering import LoweringError

BUDGET_S = 20

BINARY = {
    "SUM": np.add,
    "PROD": np.multiply,
    "MAX": np.maximum,
    "MIN": np.minimum,
    "SUB": np.subtract,
    "DIV": np.divide,
    "POW": np.power,
    "FLOOR_DIV": lambda a, b: np.floor(a / b),
    "EQUAL": np.equal,
    "GREATER": np.greater,
    "LESS": np.less,
}
# Rounding happens once, from float32; these are exact or correctly rounded in float32 itself.
EXACT = {"SUM", "PROD", "MAX", "MIN", "SUB", "DIV", "FLOOR_DIV", "EQUAL", "GREATER", "LESS"}


def floats(type_name, shape, seed=0, low=-3.0, high=3.0):
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32).astype(NUMPY[type_name])


def close_in(type_name, got, expected64, ulps=1.0, tiny=0.0):
    """Within `ulps` units in the last place of the output's type, plus float32's own error of a few."""
    assert got.dtype == NUMPY[type_name]
    with np.errstate(over="ignore"):
        expected = expected64.astype(np.float32).astype(NUMPY[type_name]).astype(np.float64)
    eps = {"FLOAT": 2.0**-23, "HALF": 2.0**-10, "BF16": 2.0**-7}[type_name]
    extra = 8 if type_name == "FLOAT" else 0
    tiny += {"FLOAT": 1e-6, "HALF": 2.0**-24, "BF16": 1e-6}[type_name]
    np.testing.assert_allclose(got.astype(np.float64), expected, rtol=(ulps + extra) * eps, atol=tiny)


def binary(type_name, operation, a, b):
    net = Net()
    x, z = net.input("a", type_name, a.shape), net.input("b", type_name, b.shape)
    net.mark(net.op("elementwise", x, z, getattr(net.trt.ElementWiseOperation, operation)))
    return net.run({"a": a, "b": b})["y"]


@covered(type_name=FLOATS, operation=BINARY)
def test_elementwise_of_floats(type_name, operation):
    low = 0.25 if operation == "POW" else -3.0
    a = np.concatenate([floats(type_name, (6, 4), low=low), np.ones((1, 4), NUMPY[type_name])])
    b = np.concatenate([floats(type_name, (6, 1), 1), np.ones((1, 1), NUMPY[type_name])])
    b[b == 0] = 1
    got = binary(type_name, operation, a, b)
    wide = BINARY[operation](a.astype(np.float32), b.astype(np.float32))
    if wide.dtype == np.bool_:
        same_bits(got, wide)
    elif operation in EXACT:
        same_bits(got, wide.astype(NUMPY[type_name]))
    else:
        close_in(type_name, got, wide.astype(np.float64))


@covered(type_name=INTS, operation=BINARY)
def test_elementwise_of_integers(type_name, operation):
    dtype = NUMPY[type_name]
    limits = np.iinfo(dtype)
    if operation == "POW":
        base = [3, -3, 2, -2, 7, 1, -1, -1, 0, 0, 46341, -1]
        power = [39, 39, 30, 31, 11, 900, 901, -1, 0, 5, 2, -2]
        a, b = np.array(base, dtype), np.array(power, dtype)
    else:
        a = np.array([limits.max, limits.min, limits.min, 7, -7, 7, -7, 6, -6, 0, limits.max - 1], dtype)
        b = np.array([3, 3, -1, 2, 2, -2, -2, 3, 3, 5, limits.max], dtype)
    got = binary(type_name, operation, a, b)
    bits = limits.bits
    pairs = list(zip(a.tolist(), b.tolist(), strict=True))

    def wrapped(number):
        return (number + (1 << bits - 1)) % (1 << bits) - (1 << bits - 1)

    def toward_zero(x, y):
        quotient = abs(x) // abs(y)
        return quotient if (x < 0) == (y < 0) else -quotient

    exact = {
        "DIV": toward_zero,
        "FLOOR_DIV": lambda x, y: x // y,
        "POW": lambda x, y: x**y if y >= 0 else toward_zero(1, x**-y),
    }
    if operation in exact:
        expected = np.array([wrapped(exact[operation](x, y)) for x, y in pairs], dtype)
    else:
        expected = BINARY[operation](a, b)
    same_bits(got, expected)


@pytest.mark.parametrize("divisor", [3, -1, -4])
def test_integer_division_by_a_constant(divisor):
    a = np.array([np.iinfo(np.int32).min, -7, 0, 7], np.int32)
    for operation, expected in (("DIV", np.trunc(a / divisor)), ("FLOOR_DIV", np.floor(a / divisor))):
        net = Net()
        x = net.input("a", "INT32", a.shape)
        z = net.constant(np.array([divisor], np.int32))
        net.mark(net.op("elementwise", x, z, getattr(net.trt.ElementWiseOperation, operation)))
        same_bits(net.run({"a": a})["y"], expected.astype(np.int64).astype(np.int32))


@pytest.mark.parametrize("exponent", [0, 1, 2, 5, 63, 64, 65, -1])
def test_integer_power_by_a_constant(exponent):
    a = np.array([-2, -1, 1, 3, 5], np.int64)
    net = Net()
    x, z = net.input("a", "INT64", a.shape), net.constant(np.array([exponent], np.int64))
    net.mark(net.op("elementwise", x, z, net.trt.ElementWiseOperation.POW))
    numbers = [x**exponent if exponent >= 0 else int(1 / x**-exponent) for x in a.tolist()]
    expected = np.array([(n + 2**63) % 2**64 - 2**63 for n in numbers], np.int64)
    # From exponent 64 on only |base| <= 1 fits; the rest has overflowed in C as well.
    fits = np.abs(a) <= 1 if exponent >= 64 else np.ones(a.shape, bool)
    np.testing.assert_array_equal(net.run({"a": a})["y"][fits], expected[fits])


@pytest.mark.parametrize("operation", ["AND", "OR", "XOR", "EQUAL"])
def test_elementwise_of_booleans(operation):
    a, b = np.array([[False], [True]]), np.array([[False, True]])
    net = Net()
    x, z = net.input("a", "BOOL", a.shape), net.input("b", "BOOL", b.shape)
    net.mark(net.op("elementwise", x, z, getattr(net.trt.ElementWiseOperation, operation)))
    expected = {"AND": a & b, "OR": a | b, "XOR": a ^ b, "EQUAL": a == b}[operation]
    same_bits(net.run({"a": a, "b": b})["y"], expected)


def test_two_constants_keep_their_rank():
    a, b = np.array([[1.0, 2.0]], np.float32), np.array([[3.0, 5.0]], np.float32)
    net = Net()
    net.mark(net.op("elementwise", net.constant(a), net.constant(b), net.trt.ElementWiseOperation.SUB))
    same_bits(net.run({})["y"], a - b)


UNARY = {
    "EXP": (np.exp, -3, 3),
    "LOG": (np.log, 0.25, 3),
    "SQRT": (np.sqrt, 0, 3),
    "RECIP": (np.reciprocal, 0.5, 3),
    "ABS": (np.abs, -3, 3),
    "NEG": (np.negative, -3, 3),
    "SIN": (np.sin, -3, 3),
    "COS": (np.cos, -3, 3),
    "TAN": (np.tan, -1, 1),
    "SINH": (np.sinh, -3, 3),
    "COSH": (np.cosh, -3, 3),
    "ASIN": (np.arcsin, -0.9, 0.9),
    "ACOS": (np.arccos, -0.9, 0.9),
    "ATAN": (np.arctan, -3, 3),
    "ASINH": (np.arcsinh, -3, 3),
    "ACOSH": (np.arccosh, 1.25, 3),
    "ATANH": (np.arctanh, -0.9, 0.9),
    "CEIL": (np.ceil, -3, 3),
    "FLOOR": (np.floor, -3, 3),
    "ERF": (np.vectorize(math.erf, otypes=[np.float64]), -3, 3),
    "SIGN": (np.sign, -3, 3),
    "ROUND": (np.rint, -3, 3),
}


def unary(type_name, operation, a):
    net = Net()
    x = net.input("a", type_name, a.shape)
    net.mark(net.op("unary", x, getattr(net.trt.UnaryOperation, operation)))
    return net.run({"a": a})["y"]


@covered(type_name=FLOATS, operation=UNARY)
def test_unary_of_floats(type_name, operation):
    function, low, high = UNARY[operation]
    a = floats(type_name, (5, 7), low=low, high=high)
    a[0, :3] = np.array([0.5, 1.5, 2.5]) if low == -3 else a[0, :3]
    close_in(type_name, unary(type_name, operation, a), function(a.astype(np.float64)))


@covered(type_name=INTS, operation=["ABS", "NEG", "SIGN"])
def test_unary_of_integers(type_name, operation):
    a = np.array(
        [0, 5, -5, np.iinfo(NUMPY[type_name]).max, np.iinfo(NUMPY[type_name]).min + 1], NUMPY[type_name]
    )
    same_bits(unary(type_name, operation, a), UNARY[operation][0](a))


@pytest.mark.parametrize("type_name", FLOATS)
def test_predicates_and_not(type_name):
    a = np.array([np.nan, np.inf, -np.inf, 0, 1], NUMPY[type_name])
    wide = a.astype(np.float32)
    same_bits(unary(type_name, "ISNAN", a), np.isnan(wide))
    same_bits(unary(type_name, "ISINF", a), np.isinf(wide))
    same_bits(unary("BOOL", "NOT", np.array([True, False])), np.array([False, True]))


def _gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (0.044715 * x**3 + x)))


ALPHA, BETA = 0.75, 1.25
ACTIVATION = {
    "RELU": lambda x: np.maximum(x, 0),
    "SIGMOID": lambda x: 1 / (1 + np.exp(-x)),
    "TANH": np.tanh,
    "LEAKY_RELU": lambda x: np.where(x >= 0, x, ALPHA * x),
    "ELU": lambda x: np.where(x >= 0, x, ALPHA * (np.exp(x) - 1)),
    "SELU": lambda x: np.where(x > 0, BETA * x, BETA * (ALPHA * np.exp(x) - ALPHA)),
    "SOFTSIGN": lambda x: x / (1 + np.abs(x)),
    "SOFTPLUS": lambda x: ALPHA * np.log(np.exp(BETA * x) + 1),
    "CLIP": lambda x: np.maximum(ALPHA, np.minimum(BETA, x)),
    "HARD_SIGMOID": lambda x: np.maximum(0, np.minimum(1, ALPHA * x + BETA)),
    "SCALED_TANH": lambda x: ALPHA * np.tanh(BETA * x),
    "THRESHOLDED_RELU": lambda x: np.where(x > ALPHA, x, 0),
    "GELU_ERF": lambda x: 0.5 * x * (1 + UNARY["ERF"][0](np.sqrt(0.5) * x)),
    "GELU_TANH": _gelu_tanh,
}


@covered(type_name=FLOATS, name=ACTIVATION)
def test_activation(type_name, name):
    a = floats(type_name, (9, 11), low=-4, high=4)
    net = Net()
    x = net.input("a", type_name, a.shape)
    net.mark(net.op("activation", x, getattr(net.trt.ActivationType, name), alpha=ALPHA, beta=BETA))
    # The GELUs multiply x by 1 + something near -1, which float32 has to within its epsilon.
    tiny = 1e-6 if name.startswith("GELU") else 0.0
    close_in(type_name, net.run({"a": a})["y"], ACTIVATION[name](a.astype(np.float64)), tiny=tiny)


def test_clip_with_crossing_bounds_is_alpha():
    net = Net()
    x = net.input("a", "FLOAT", (3,))
    net.mark(net.op("activation", x, net.trt.ActivationType.CLIP, alpha=2.0, beta=-2.0))
    got = net.run({"a": np.array([-5, 0, 5], np.float32)})["y"]
    same_bits(got, np.full(3, 2, np.float32))


@pytest.mark.parametrize("type_name", INTS)
def test_relu_of_integers(type_name):
    a = np.array([-3, 0, np.iinfo(NUMPY[type_name]).max], NUMPY[type_name])
    net = Net()
    net.mark(net.op("activation", net.input("a", type_name, a.shape), net.trt.ActivationType.RELU))
    same_bits(net.run({"a": a})["y"], np.maximum(a, 0))


@pytest.mark.parametrize("operation", ["DIV", "FLOOR_DIV"])
def test_a_divisor_with_a_zero_is_refused(operation):
    net = Net()
    divisor = net.constant(np.array([-1, 0], np.int32))
    x = net.input("x", "INT32", (2,))
    net.mark(net.op("elementwise", x, divisor, getattr(net.trt.ElementWiseOperation, operation)))
    with pytest.raises(LoweringError, match="the divisor contains 0"):
        net.lower()
