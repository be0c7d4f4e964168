"""Networks of one element-by-element layer, for every operation and type."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from zoo.case import FLOATS, INTS, NUMBERS, Case, Feed, constant, dtype, made, mark, sample

LENGTHS = (3, 1, 0)

ARITHMETIC = {
    # operation: the domains of its two operands
    "SUM": ("normal", "normal"),
    "PROD": ("normal", "normal"),
    "MAX": ("normal", "normal"),
    "MIN": ("normal", "normal"),
    "SUB": ("normal", "normal"),
    "DIV": ("normal", "nonzero"),
    "POW": ("positive", "exponent"),
    "FLOOR_DIV": ("between", "powers"),
}
UNARY_DOMAINS = {
    "EXP": "normal", "LOG": "positive", "SQRT": "positive", "RECIP": "nonzero", "ABS": "normal",
    "NEG": "normal", "SIN": "wide", "COS": "wide", "TAN": "unit", "SINH": "normal", "COSH": "normal",
    "ASIN": "unit", "ACOS": "unit", "ATAN": "wide", "ASINH": "wide", "ACOSH": "above_one", "ATANH": "unit",
    "CEIL": "wide", "FLOOR": "wide", "ERF": "normal", "SIGN": "whole", "ROUND": "halves",
    "ISINF": "special", "ISNAN": "special",
}  # fmt: skip
ACTIVATIONS = {
    # type: alpha, beta (None: left at the default)
    "RELU": None, "SIGMOID": None, "TANH": None, "LEAKY_RELU": (0.1, 0.0), "ELU": (0.7, 0.0),
    "SELU": (1.67326, 1.0507), "SOFTSIGN": None, "SOFTPLUS": (0.5, 2.0), "CLIP": (-0.75, 1.25),
    "HARD_SIGMOID": (0.2, 0.5), "SCALED_TANH": (1.5, 0.5), "THRESHOLDED_RELU": (0.5, 0.0),
    "GELU_ERF": None, "GELU_TANH": None,
}  # fmt: skip


def binary(op: str, type_name: str, domains: tuple[str, str]) -> Case:
    """a [-1, 3, 4] op b [-1, 1, 4]."""

    def define(network: Any, trt: Any) -> None:
        a = network.add_input("a", dtype(trt, type_name), (-1, 3, 4))
        b = network.add_input("b", dtype(trt, type_name), (-1, 1, 4))
        mark(network, made(network.add_elementwise(a, b, getattr(trt.ElementWiseOperation, op))))

    def feeds() -> list[Feed]:
        return [
            {
                "a": sample((op, "a"), type_name, (n, 3, 4), domains[0]),
                "b": sample((op, "b"), type_name, (n, 1, 4), domains[1]),
            }
            for n in LENGTHS
        ]

    name = f"elementwise-{op}-{type_name}"
    return Case(
        name=name, define=define, feeds=feeds, narrowest=type_name if type_name in FLOATS else "FLOAT"
    )


def binary_with_constant(op: str, type_name: str, *, constant_first: bool) -> Case:
    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", dtype(trt, type_name), (-1, 4))
        values = sample((op, "constant"), type_name, (1, 4), "positive")
        other = constant(network, trt, values, type_name)
        pair = (other, x) if constant_first else (x, other)
        mark(network, made(network.add_elementwise(*pair, getattr(trt.ElementWiseOperation, op))))

    def feeds() -> list[Feed]:
        return [{"x": sample(op, type_name, (n, 4), "positive")} for n in LENGTHS]

    order = "constant-first" if constant_first else "constant-second"
    return Case(
        name=f"elementwise-{op}-{type_name}-{order}",
        define=define,
        feeds=feeds,
        narrowest=type_name if type_name in FLOATS else "FLOAT",
    )


def run_time_broadcast() -> Case:
    """Which of two dynamic dimensions is broadcast is only known when the engine runs."""

    def define(network: Any, trt: Any) -> None:
        a = network.add_input("a", trt.float32, (-1, -1))
        b = network.add_input("b", trt.float32, (-1, -1))
        mark(network, made(network.add_elementwise(a, b, trt.ElementWiseOperation.SUM)))

    def feeds() -> list[Feed]:
        shapes = [((1, 4), (5, 4)), ((5, 1), (1, 4)), ((5, 4), (1, 1)), ((0, 4), (1, 4)), ((1, 1), (1, 0))]
        return [{"a": sample("a", "FLOAT", a), "b": sample("b", "FLOAT", b)} for a, b in shapes]

    return Case(name="elementwise-broadcast-at-run-time", define=define, feeds=feeds)


def unary(op: str, type_name: str, domain: str) -> Case:
    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", dtype(trt, type_name), (-1, 5))
        mark(network, made(network.add_unary(x, getattr(trt.UnaryOperation, op))))

    def feeds() -> list[Feed]:
        return [{"x": sample(op, type_name, (n, 5), domain)} for n in LENGTHS]

    name = f"unary-{op}-{type_name}"
    return Case(
        name=name, define=define, feeds=feeds, narrowest=type_name if type_name in FLOATS else "FLOAT"
    )


def activation(kind: str, parameters: tuple[float, float] | None, type_name: str) -> Case:
    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", dtype(trt, type_name), (-1, 7))
        layer = network.add_activation(x, getattr(trt.ActivationType, kind))
        out = made(layer)
        if parameters is not None:
            layer.alpha, layer.beta = parameters
        mark(network, out)

    def feeds() -> list[Feed]:
        return [{"x": sample(kind, type_name, (n, 7), "wide")} for n in LENGTHS]

    name = f"activation-{kind}-{type_name}"
    return Case(
        name=name, define=define, feeds=feeds, narrowest=type_name if type_name in FLOATS else "FLOAT"
    )


def select(type_name: str) -> Case:
    def define(network: Any, trt: Any) -> None:
        condition = network.add_input("condition", trt.bool, (-1, 1, 3))
        then = network.add_input("then", dtype(trt, type_name), (-1, 4, 3))
        other = network.add_input("other", dtype(trt, type_name), (1, 4, 1))
        mark(network, made(network.add_select(condition, then, other)))

    def feeds() -> list[Feed]:
        return [
            {
                "condition": sample("condition", "BOOL", (n, 1, 3)),
                "then": sample("then", type_name, (n, 4, 3)),
                "other": sample("other", type_name, (1, 4, 1)),
            }
            for n in LENGTHS
        ]

    name = f"select-{type_name}"
    return Case(
        name=name, define=define, feeds=feeds, narrowest=type_name if type_name in FLOATS else "FLOAT"
    )


def cast(source: str, target: str) -> Case:
    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", dtype(trt, source), (-1, 6))
        mark(network, made(network.add_cast(x, dtype(trt, target))))

    def feeds() -> list[Feed]:
        domain = "halves" if source in FLOATS else "normal"
        return [{"x": sample("cast", source, (n, 6), domain)} for n in LENGTHS]

    narrowest = next((t for t in ("BF16", "HALF") if t in (source, target)), "FLOAT")
    return Case(name=f"cast-{source}-{target}", define=define, feeds=feeds, narrowest=narrowest)


def wide_integers() -> Case:
    """Integers that no float32 and no float64 holds."""

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", trt.int64, (-1,))
        one = constant(network, trt, np.array([1]), "INT64")
        mark(network, made(network.add_elementwise(x, one, trt.ElementWiseOperation.SUM)), "plus_one")
        mark(network, made(network.add_cast(x, trt.int32)), "wrapped")
        mark(network, made(network.add_elementwise(x, one, trt.ElementWiseOperation.GREATER)), "greater")

    def feeds() -> list[Feed]:
        values = [2**53 + 1, -(2**53) - 1, 2**62 + 3, 2**31, -(2**31) - 1, 2**32 + 7, 0]
        return [{"x": np.array(values, np.int64)}]

    return Case(name="integers-beyond-floats", define=define, feeds=feeds)


def constants_alone() -> Case:
    """Layers whose operands are all constants keep the rank that leading lengths of one give them."""

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", trt.float32, (1, 4))
        flags = network.add_input("flags", trt.bool, (1, 4))
        a = constant(network, trt, sample("a", "FLOAT", (1, 4)), "FLOAT")
        b = constant(network, trt, sample("b", "FLOAT", (1, 1)), "FLOAT")
        ops = trt.ElementWiseOperation
        difference = made(network.add_elementwise(a, b, ops.SUB))
        mark(network, difference, "difference")
        mark(network, made(network.add_elementwise(b, b, ops.SUM)), "sum")
        mark(network, made(network.add_elementwise(a, b, ops.GREATER)), "greater")
        mark(network, made(network.add_unary(a, trt.UnaryOperation.EXP)), "exp")
        mark(network, made(network.add_activation(a, trt.ActivationType.RELU)), "relu")
        mark(network, made(network.add_select(flags, a, b)), "select")
        mark(network, made(network.add_reduce(difference, trt.ReduceOperation.SUM, 0b10, True)), "reduce")
        mark(network, made(network.add_elementwise(difference, x, ops.PROD)), "product")
        square = constant(network, trt, sample("square", "FLOAT", (1, 4, 4)), "FLOAT")
        none = trt.MatrixOperation.NONE
        mark(network, made(network.add_matrix_multiply(square, none, square, none)), "matmul")

    def feeds() -> list[Feed]:
        return [{"x": sample("x", "FLOAT", (1, 4)), "flags": sample("flags", "BOOL", (1, 4))}]

    return Case(name="constants-alone", define=define, feeds=feeds)


def cases() -> Iterator[Case]:
    for type_name in NUMBERS:
        for op, domains in ARITHMETIC.items():
            yield binary(op, type_name, domains)
        for op in ("EQUAL", "GREATER", "LESS"):
            yield binary(op, type_name, ("whole", "whole"))
        for op in ("SUB", "DIV", "POW"):
            yield binary_with_constant(op, type_name, constant_first=True)
            yield binary_with_constant(op, type_name, constant_first=False)
    for op in ("AND", "OR", "XOR", "EQUAL"):
        yield binary(op, "BOOL", ("normal", "normal"))
    yield run_time_broadcast()
    for type_name in FLOATS:
        for op, domain in UNARY_DOMAINS.items():
            yield unary(op, type_name, domain)
        for kind, parameters in ACTIVATIONS.items():
            yield activation(kind, parameters, type_name)
    for type_name in INTS:
        for op in ("ABS", "NEG", "SIGN"):
            yield unary(op, type_name, "normal")
        yield activation("RELU", None, type_name)
    yield unary("NOT", "BOOL", "normal")
    for type_name in (*NUMBERS, "BOOL"):
        yield select(type_name)
        for target in (*NUMBERS, "BOOL"):
            yield cast(type_name, target)
    yield wide_integers()
    yield constants_alone()
