"""Networks with loops and conditionals: counted and conditional loops, nested ones, recurrent cells, both branches."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from zoo.case import FLOATS, Case, Feed, constant, dtype, made, mark, sample

LENGTHS = (4, 1, 0)


def binary(network: Any, trt: Any, a: Any, b: Any, op: str) -> Any:
    return made(network.add_elementwise(a, b, getattr(trt.ElementWiseOperation, op)))


def length_of(network: Any, trt: Any, x: Any, axis: int) -> Any:
    """The length of a dimension, 0-d."""
    layer = network.add_shuffle(made(network.add_slice(made(network.add_shape(x)), (axis,), (1,), (1,))))
    layer.reshape_dims = ()
    return layer.get_output(0)


def collected(loop: Any, trt: Any, tensor: Any, kind: str, length: Any, axis: int = 0) -> Any:
    """The values of all iterations."""
    layer = loop.add_loop_output(tensor, getattr(trt.LoopOutput, kind), axis)
    layer.set_input(1, length)
    return layer.get_output(0)


def last(loop: Any, trt: Any, tensor: Any) -> Any:
    return made(loop.add_loop_output(tensor, trt.LoopOutput.LAST_VALUE))


def running_sum(type_name: str, axis: int, *, reverse: bool, kind: str) -> Case:
    """Sums along an axis of x [n, 3, m], from either end, in either order."""

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", dtype(trt, type_name), (-1, 3, -1))
        count = length_of(network, trt, x, axis)
        loop = network.add_loop()
        loop.add_trip_limit(count, trt.TripLimit.COUNT)
        current = made(loop.add_iterator(x, axis, reverse))
        start = made(
            network.add_reduce(binary(network, trt, x, x, "SUB"), trt.ReduceOperation.SUM, 1 << axis, False)
        )
        recurrence = loop.add_recurrence(start)
        total = binary(network, trt, current, recurrence.get_output(0), "SUM")
        recurrence.set_input(1, total)
        mark(network, collected(loop, trt, total, kind, count, axis))
        mark(network, last(loop, trt, recurrence.get_output(0)), "total")

    shapes = [(n, 3, m) for n, m in zip(LENGTHS, (2, 5, 3), strict=True)] + [(2, 3, 0)]
    return Case(
        name=f"loop-sum-{axis}-{'down' if reverse else 'up'}-{kind}-{type_name}",
        define=define,
        feeds=lambda: [{"x": sample("sum", type_name, shape, "halves")} for shape in shapes],
        narrowest=type_name if type_name in FLOATS else "FLOAT",
        roundings=4,
    )


def fibonacci() -> Case:
    """Two recurrences that pass their values to each other; the number of steps is an input of the network."""

    def define(network: Any, trt: Any) -> None:
        count = network.add_input("count", trt.int32, ())
        loop = network.add_loop()
        a = loop.add_recurrence(constant(network, trt, np.array(0), "INT64"))
        b = loop.add_recurrence(constant(network, trt, np.array(1), "INT64"))
        a.set_input(1, b.get_output(0))
        b.set_input(1, binary(network, trt, a.get_output(0), b.get_output(0), "SUM"))
        loop.add_trip_limit(count, trt.TripLimit.COUNT)
        mark(network, last(loop, trt, a.get_output(0)))
        mark(network, collected(loop, trt, b.get_output(0), "CONCATENATE", count), "all")

    return Case(
        name="loop-fibonacci",
        define=define,
        feeds=lambda: [{"count": np.array(count, np.int32)} for count in (10, 1, 0)],
        shape_inputs=frozenset({"count"}),
    )


def until(limit: int | None, type_name: str) -> Case:
    """x doubles until its sum passes a bound, or for at most `limit` iterations."""

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", dtype(trt, type_name), (-1,))
        bound = constant(network, trt, np.array(20.0), type_name)
        loop = network.add_loop()
        state = loop.add_recurrence(x)
        number = loop.add_recurrence(constant(network, trt, np.array(0), "INT32"))
        now = state.get_output(0)
        total = made(network.add_reduce(now, trt.ReduceOperation.SUM, 1, False))
        loop.add_trip_limit(binary(network, trt, total, bound, "LESS"), trt.TripLimit.WHILE)
        if limit is not None:
            loop.add_trip_limit(constant(network, trt, np.array(limit), "INT32"), trt.TripLimit.COUNT)
        state.set_input(1, binary(network, trt, now, now, "SUM"))
        one = constant(network, trt, np.array(1), "INT32")
        number.set_input(1, binary(network, trt, number.get_output(0), one, "SUM"))
        mark(network, last(loop, trt, now))
        mark(network, last(loop, trt, number.get_output(0)), "trips")
        length = constant(network, trt, np.array(3), "INT64")
        mark(network, collected(loop, trt, number.get_output(0), "CONCATENATE", length), "numbers")
        mark(network, collected(loop, trt, now, "REVERSE", length, 1), "states")

    values = ([1.0, 0.5], [8.0, 8.0], [30.0, 1.0])
    return Case(
        name=f"loop-while-{limit}-{type_name}",
        define=define,
        feeds=lambda: [{"x": np.array(one).astype(sample("", type_name, ()).dtype)} for one in values],
        narrowest=type_name,
        roundings=5,
    )


def nested() -> Case:
    """Row sums of a matrix by an inner loop, summed up by an outer one that scales them by a tensor from outside."""

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", trt.float32, (-1, -1))
        scale = constant(network, trt, np.array(0.5), "FLOAT")
        zero = constant(network, trt, np.array(0.0), "FLOAT")
        rows, columns = length_of(network, trt, x, 0), length_of(network, trt, x, 1)
        outer, inner = network.add_loop(), network.add_loop()
        outer.add_trip_limit(rows, trt.TripLimit.COUNT)
        inner.add_trip_limit(columns, trt.TripLimit.COUNT)
        row = made(outer.add_iterator(x))
        element = made(inner.add_iterator(row))
        partial = inner.add_recurrence(zero)
        partial.set_input(1, binary(network, trt, partial.get_output(0), element, "SUM"))
        row_sum = last(inner, trt, partial.get_output(0))
        prefix = collected(inner, trt, partial.get_output(0), "CONCATENATE", columns)
        total = outer.add_recurrence(zero)
        total.set_input(
            1, binary(network, trt, total.get_output(0), binary(network, trt, row_sum, scale, "PROD"), "SUM")
        )
        mark(network, last(outer, trt, total.get_output(0)))
        mark(network, collected(outer, trt, prefix, "CONCATENATE", rows), "prefixes")

    return Case(
        name="loop-nested",
        define=define,
        feeds=lambda: [{"x": sample("nest", "FLOAT", shape)} for shape in ((3, 4), (1, 2), (0, 2), (2, 0))],
        roundings=2,
    )


def recurrent_cell(type_name: str) -> Case:
    """h = tanh(x W + h U + b) over the steps of a batch; U is used in the loop as it is stored."""

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", dtype(trt, type_name), (-1, -1, 6))
        first = network.add_input("h", dtype(trt, type_name), (-1, 24))
        first.set_dimension_name(0, "batch")
        x.set_dimension_name(0, "batch")
        w, u, b = (
            constant(network, trt, sample(key, type_name, shape) * 0.3, type_name) for key, shape in _SHAPES
        )
        steps = length_of(network, trt, x, 1)
        loop = network.add_loop()
        loop.add_trip_limit(steps, trt.TripLimit.COUNT)
        step = made(loop.add_iterator(x, 1))
        state = loop.add_recurrence(first)
        plain, turned = trt.MatrixOperation.NONE, trt.MatrixOperation.TRANSPOSE
        mixed = made(network.add_matrix_multiply(step, plain, w, turned))
        kept = made(network.add_matrix_multiply(state.get_output(0), plain, u, turned))
        added = binary(network, trt, binary(network, trt, mixed, kept, "SUM"), b, "SUM")
        after = made(network.add_activation(added, trt.ActivationType.TANH))
        state.set_input(1, after)
        mark(network, collected(loop, trt, after, "CONCATENATE", steps, 1))
        mark(network, last(loop, trt, state.get_output(0)), "last")

    def feed(batch: int, steps: int) -> Feed:
        x = sample("steps", type_name, (batch, steps, 6))
        return {"x": x, "h": sample("first", type_name, (batch, 24), "unit")}

    return Case(
        name=f"loop-cell-{type_name}",
        define=define,
        feeds=lambda: [feed(2, 5), feed(1, 1), feed(3, 0)],
        narrowest=type_name,
        roundings=30,
    )


_SHAPES = (("w", (24, 6)), ("u", (24, 24)), ("b", (1, 24)))


def either(type_name: str, *, computed: bool, as_inputs: bool) -> Case:
    """x + 1 if the condition holds, else -x; both parts of it twice."""

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", dtype(trt, type_name), (-1, 3))
        if computed:
            total = made(network.add_reduce(x, trt.ReduceOperation.SUM, 3, False))
            condition = binary(network, trt, total, constant(network, trt, np.array(0), type_name), "GREATER")
        else:
            condition = network.add_input("condition", trt.bool, ())
        choice = network.add_if_conditional()
        choice.set_condition(condition)
        into = made(choice.add_input(x)) if as_inputs else x
        one = constant(network, trt, np.array([[1]]), type_name)
        then = binary(network, trt, into, one, "SUM")
        other = made(network.add_unary(into, trt.UnaryOperation.NEG))
        mark(network, made(choice.add_output(then, other)))
        mark(network, made(choice.add_output(into, binary(network, trt, other, other, "PROD"))), "z")

    def feeds() -> list[Feed]:
        given: list[Feed] = []
        for length in (2, 0):
            for condition in (True, False):
                x = np.abs(sample("either", type_name, (length, 3), "positive"))
                feed = {"x": x if condition or not computed else -x}
                given.append(feed if computed else feed | {"condition": np.array(condition)})
        return given

    return Case(
        name=f"if-{'computed' if computed else 'given'}-{'inputs' if as_inputs else 'direct'}-{type_name}",
        define=define,
        feeds=feeds,
        narrowest=type_name if type_name in FLOATS else "FLOAT",
        roundings=2,
    )


def untaken() -> Case:
    """The branch that is not taken reads where there is nothing; it must not run."""

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", trt.float32, (4,))
        place = network.add_input("place", trt.int32, ())
        zero, four = (constant(network, trt, np.array(n), "INT32") for n in (0, 4))
        choice = network.add_if_conditional()
        choice.set_condition(binary(network, trt, place, four, "LESS"))
        there = made(network.add_gather(x, made(choice.add_input(place)), 0))
        past = binary(network, trt, zero, made(choice.add_input(place)), "FLOOR_DIV")
        nowhere = made(network.add_cast(past, trt.float32))
        mark(network, made(choice.add_output(there, nowhere)))

    return Case(
        name="if-untaken",
        define=define,
        feeds=lambda: [
            {"x": sample("x", "FLOAT", (4,)), "place": np.array(place, np.int32)} for place in (0, 2, 4, 9)
        ],
    )


def mixed_nesting() -> Case:
    """A conditional in a loop, with a loop in one of its branches, which holds a conditional again."""

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", trt.float32, (-1, 3))
        zero = constant(network, trt, np.array(0.0), "FLOAT")
        three = constant(network, trt, np.array(3), "INT32")
        steps = length_of(network, trt, x, 0)
        loop, inside = network.add_loop(), network.add_loop()
        choice, within = network.add_if_conditional(), network.add_if_conditional()
        loop.add_trip_limit(steps, trt.TripLimit.COUNT)
        row = made(loop.add_iterator(x))
        total = loop.add_recurrence(zero)
        row_sum = made(network.add_reduce(row, trt.ReduceOperation.SUM, 1, False))
        choice.set_condition(binary(network, trt, row_sum, zero, "GREATER"))
        inside.add_trip_limit(three, trt.TripLimit.COUNT)
        element = made(inside.add_iterator(made(choice.add_input(row))))
        product = inside.add_recurrence(constant(network, trt, np.array(1.0), "FLOAT"))
        within.set_condition(binary(network, trt, element, zero, "LESS"))
        opposite = made(network.add_unary(element, trt.UnaryOperation.NEG))
        size = made(within.add_output(opposite, element))
        product.set_input(1, binary(network, trt, product.get_output(0), size, "PROD"))
        chosen = made(choice.add_output(last(inside, trt, product.get_output(0)), total.get_output(0)))
        total.set_input(1, binary(network, trt, total.get_output(0), chosen, "SUM"))
        mark(network, last(loop, trt, total.get_output(0)))

    return Case(
        name="loop-if-loop-if",
        define=define,
        feeds=lambda: [{"x": sample("mixed", "FLOAT", (length, 3))} for length in (5, 1, 0)],
        roundings=10,
    )


def cases() -> Iterator[Case]:
    yield running_sum("FLOAT", 0, reverse=False, kind="CONCATENATE")
    yield running_sum("INT64", 0, reverse=True, kind="REVERSE")
    yield running_sum("HALF", 2, reverse=True, kind="CONCATENATE")
    yield running_sum("BF16", 0, reverse=False, kind="REVERSE")
    yield fibonacci()
    for type_name in FLOATS:
        yield until(None, type_name)
        yield recurrent_cell(type_name)
    yield until(2, "FLOAT")
    yield nested()
    yield either("FLOAT", computed=False, as_inputs=True)
    yield either("INT32", computed=True, as_inputs=False)
    yield either("BF16", computed=True, as_inputs=True)
    yield untaken()
    yield mixed_nesting()
