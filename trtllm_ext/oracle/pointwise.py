"""Layers that work element by element: elementwise, unary, activation, select, cast, identity."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from trtllm_ext.oracle.call import Call
from trtllm_ext.oracle.special import erf, sigmoid, softplus
from trtllm_ext.oracle.values import Array, is_floating, member_name

Binary = Callable[[Array, Array], Array]
Unary = Callable[[Array], Array]
Parametric = Callable[[Array, float, float], Array]


def broadcast(call: Call, *values: Array) -> list[Array]:
    """TensorRT broadcasts dimensions of length one between tensors of the same rank, and never adds dimensions."""
    if len({value.ndim for value in values}) > 1:
        call.refuse(f"inputs of shapes {[v.shape for v in values]} must have the same number of dimensions")
    try:
        return list(np.broadcast_arrays(*values))
    except ValueError:
        call.refuse(
            f"inputs of shapes {[v.shape for v in values]} do not broadcast: lengths must match or be 1"
        )


def truncated_division(a: Array, b: Array) -> Array:
    """Integer division toward zero, as C++ defines it."""
    quotient = a // b
    inexact_negative = (a % b != 0) & ((a < 0) != (b < 0))
    return np.asarray(quotient + inexact_negative.astype(quotient.dtype))


def _divide(a: Array, b: Array) -> Array:
    return np.divide(a, b) if is_floating(a) else truncated_division(a, b)


def _floor_divide(a: Array, b: Array) -> Array:
    return np.floor(np.divide(a, b)) if is_floating(a) else np.floor_divide(a, b)


def _power(a: Array, b: Array) -> Array:
    """Integers wrap like any other integer operation; a negative exponent truncates the reciprocal toward zero."""
    if is_floating(a):
        return np.power(a, b)
    raised = np.power(a, np.maximum(b, 0))
    # 1 / a^n is -1, 0 or 1 once truncated.
    odd = np.asarray(b % 2 != 0)
    reciprocal = np.where(a == 1, 1, np.where(a == -1, np.where(odd, -1, 1), 0)).astype(a.dtype)
    return np.where(b < 0, reciprocal, raised)


ARITHMETIC: dict[str, Binary] = {
    "SUM": np.add,
    "PROD": np.multiply,
    "MAX": np.maximum,
    "MIN": np.minimum,
    "SUB": np.subtract,
    "DIV": _divide,
    "POW": _power,
    "FLOOR_DIV": _floor_divide,
}
COMPARISON: dict[str, Binary] = {"EQUAL": np.equal, "GREATER": np.greater, "LESS": np.less}
LOGICAL: dict[str, Binary] = {"AND": np.logical_and, "OR": np.logical_or, "XOR": np.logical_xor}


def elementwise(call: Call) -> Array:
    """A binary operation between two broadcast tensors. AND, OR and XOR take booleans, all others numbers."""
    op = member_name(call.attributes("IElementWiseLayer").op)
    a, b = broadcast(call, call.input(0), call.input(1))
    call.same_kind(a, b)
    boolean = a.dtype == np.bool_
    if op in LOGICAL:
        if not boolean:
            call.refuse(f"{op} takes booleans, not {a.dtype}; cast to bool first")
        return LOGICAL[op](a, b)
    # TensorRT-LLM compares booleans, which the library runs although its tables do not list it.
    if op in COMPARISON and (not boolean or op == "EQUAL"):
        return COMPARISON[op](a, b)
    if op not in ARITHMETIC or boolean:
        call.refuse(f"operation {op} on {a.dtype} is not known here")
    if op in ("DIV", "FLOOR_DIV") and not is_floating(a) and bool(np.any(b == 0)):
        call.refuse("integer division by zero is undefined")
    if op == "POW" and not is_floating(a) and bool(np.any((a == 0) & (b < 0))):
        call.refuse("integer zero to a negative power is undefined")
    return ARITHMETIC[op](a, b)


# Round half to even is what numpy's rint does too.
UNARY_FLOAT: dict[str, Unary] = {
    "EXP": np.exp,
    "LOG": np.log,
    "SQRT": np.sqrt,
    "RECIP": np.reciprocal,
    "SIN": np.sin,
    "COS": np.cos,
    "TAN": np.tan,
    "SINH": np.sinh,
    "COSH": np.cosh,
    "ASIN": np.arcsin,
    "ACOS": np.arccos,
    "ATAN": np.arctan,
    "ASINH": np.arcsinh,
    "ACOSH": np.arccosh,
    "ATANH": np.arctanh,
    "CEIL": np.ceil,
    "FLOOR": np.floor,
    "ERF": erf,
    "ROUND": np.rint,
    "ISINF": np.isinf,
    "ISNAN": np.isnan,
}
UNARY_NUMBER: dict[str, Unary] = {"ABS": np.abs, "NEG": np.negative, "SIGN": np.sign}


def unary(call: Call) -> Array:
    """A function of one tensor. NOT takes booleans; ABS, NEG, SIGN integers and floats; all others floats."""
    op = member_name(call.attributes("IUnaryLayer").op)
    x = call.input(0)
    if op == "NOT" and x.dtype == np.bool_:
        return np.logical_not(x)
    if op in UNARY_NUMBER and x.dtype != np.bool_:
        return UNARY_NUMBER[op](x)
    if op in UNARY_FLOAT and is_floating(x):
        return UNARY_FLOAT[op](x)
    known = op in UNARY_FLOAT or op in UNARY_NUMBER or op == "NOT"
    return call.refuse(f"{op} does not take {x.dtype}; cast first" if known else f"{op} is not known here")


def gelu_erf(x: Array) -> Array:
    """0.5 x (1 + erf(sqrt(0.5) x)), ActivationType.GELU_ERF's documentation."""
    return np.asarray(0.5 * x * (1.0 + erf(x * math.sqrt(0.5))))


def gelu_tanh(x: Array) -> Array:
    """0.5 x (1 + tanh(sqrt(2/pi) (0.044715 x^3 + x))), ActivationType.GELU_TANH's documentation."""
    return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (0.044715 * x**3 + x)))


# Each formula is ActivationType's documentation; a: alpha, b: beta.
ACTIVATIONS: dict[str, Parametric] = {
    "SIGMOID": lambda x, a, b: sigmoid(x),
    "TANH": lambda x, a, b: np.tanh(x),
    "LEAKY_RELU": lambda x, a, b: np.where(x >= 0, x, a * x),
    "ELU": lambda x, a, b: np.where(x >= 0, x, a * np.expm1(np.minimum(x, 0))),
    "SELU": lambda x, a, b: np.where(x > 0, b * x, b * a * np.expm1(np.minimum(x, 0))),
    "SOFTSIGN": lambda x, a, b: x / (1.0 + np.abs(x)),
    "SOFTPLUS": lambda x, a, b: a * softplus(b * x),
    "HARD_SIGMOID": lambda x, a, b: np.clip(a * x + b, 0.0, 1.0),
    "SCALED_TANH": lambda x, a, b: a * np.tanh(b * x),
    "THRESHOLDED_RELU": lambda x, a, b: np.where(x > a, x, 0.0),
    "GELU_ERF": lambda x, a, b: gelu_erf(x),
    "GELU_TANH": lambda x, a, b: gelu_tanh(x),
}


def activation(call: Call) -> Array:
    """A per-element activation with parameters alpha and beta. RELU also takes integers."""
    layer = call.attributes("IActivationLayer")
    name = member_name(call.trt.IActivationLayer.type.__get__(layer, type(layer)))
    x = call.input(0)
    if name == "RELU" and x.dtype != np.bool_:
        return np.maximum(x, np.zeros((), x.dtype))
    if not is_floating(x):
        call.refuse(f"{name} does not take {x.dtype}; cast first")
    alpha, beta = float(layer.alpha), float(layer.beta)
    if name == "CLIP":
        return np.maximum(alpha, np.minimum(beta, x))
    if name not in ACTIVATIONS:
        call.refuse(f"activation {name} is not known here")
    return ACTIVATIONS[name](x, alpha, beta)


def select(call: Call) -> Array:
    """then where the condition holds, else elsewhere; all three broadcast."""
    condition, then, otherwise = broadcast(call, call.input(0), call.input(1), call.input(2))
    if condition.dtype != np.bool_:
        call.refuse(f"the condition must be bool, not {condition.dtype}")
    call.same_kind(then, otherwise)
    return np.where(condition, then, otherwise)


def unchanged(call: Call) -> Array:
    """Cast and identity: the interpreter converts every output to its declared type."""
    return call.input(0)
