"""Networks of layers that move data: shuffle, concatenation, shape, constant, fill, identity."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from zoo.case import FLOATS, INTS, NUMBERS, NUMPY, Case, Feed, constant, dtype, made, mark, sample

LENGTHS = (3, 1, 0)


def one_input(type_name: str, shape: tuple[int, ...], lengths: Sequence[int] = LENGTHS) -> list[Feed]:
    """Feeds for a single input x whose dimensions of -1 take each of the lengths in turn."""
    return [{"x": sample("x", type_name, tuple(n if d == -1 else d for d in shape))} for n in lengths]


def shuffle(
    name: str,
    shape: tuple[int, ...],
    *,
    first: tuple[int, ...] | None = None,
    reshape: tuple[int, ...] | None = None,
    second: tuple[int, ...] | None = None,
    zero_is_placeholder: bool = True,
    type_name: str = "FLOAT",
    lengths: Sequence[int] = LENGTHS,
) -> Case:
    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", dtype(trt, type_name), shape)
        layer = network.add_shuffle(x)
        out = made(layer)
        # Everything is set after creation, as TensorRT-LLM does.
        if first is not None:
            layer.first_transpose = trt.Permutation(first)
        if reshape is not None:
            layer.reshape_dims = reshape
        if second is not None:
            layer.second_transpose = trt.Permutation(second)
        layer.zero_is_placeholder = zero_is_placeholder
        mark(network, out)

    return Case(
        name=f"shuffle-{name}-{type_name}",
        define=define,
        feeds=lambda: one_input(type_name, shape, lengths),
        narrowest=type_name if type_name in FLOATS else "FLOAT",
    )


def dynamic_reshape(type_name: str, index_type: str) -> Case:
    """x [-1, 6] viewed as [2 n, 3], the shape computed from x's own."""

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", dtype(trt, type_name), (-1, 6))
        size = made(network.add_shape(x))
        factors = constant(network, trt, np.array([2, 1]), "INT64")
        divisors = constant(network, trt, np.array([1, 2]), "INT64")
        size = made(network.add_elementwise(size, factors, trt.ElementWiseOperation.PROD))
        size = made(network.add_elementwise(size, divisors, trt.ElementWiseOperation.FLOOR_DIV))
        if index_type == "INT32":
            size = made(network.add_cast(size, trt.int32))
        layer = network.add_shuffle(x)
        layer.set_input(1, size)
        layer.zero_is_placeholder = False
        mark(network, layer.get_output(0))

    return Case(
        name=f"shuffle-dynamic-{index_type}-{type_name}",
        define=define,
        feeds=lambda: one_input(type_name, (-1, 6)),
        narrowest=type_name if type_name in FLOATS else "FLOAT",
    )


def reshape_by_input() -> Case:
    """The new shape is a shape-tensor input of the network."""

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", trt.float32, (-1, 4))
        size = network.add_input("size", trt.int64, (2,))
        layer = network.add_shuffle(x)
        layer.set_input(1, size)
        mark(network, layer.get_output(0))

    def feeds() -> list[Feed]:
        return [{"x": sample("x", "FLOAT", (n, 4)), "size": np.array([2, 2 * n], np.int64)} for n in (3, 1)]

    return Case(name="shuffle-by-shape-input", define=define, feeds=feeds, shape_inputs=frozenset({"size"}))


def concatenation(axis: int | None, type_name: str) -> Case:
    def define(network: Any, trt: Any) -> None:
        lead = {0: ((-1, 2, 3), (1, 2, 3)), 1: ((-1, 2, 3), (-1, 4, 3)), 2: ((-1, 2, 3), (-1, 2, 1))}[
            axis or 0
        ]
        tensors = [network.add_input(f"x{i}", dtype(trt, type_name), shape) for i, shape in enumerate(lead)]
        layer = network.add_concatenation([*tensors, tensors[0]])
        out = made(layer)
        if axis is not None:
            layer.axis = axis
        mark(network, out)

    def feeds() -> list[Feed]:
        second = {0: lambda n: (1, 2, 3), 1: lambda n: (n, 4, 3), 2: lambda n: (n, 2, 1)}[axis or 0]
        return [
            {"x0": sample("x0", type_name, (n, 2, 3)), "x1": sample("x1", type_name, second(n))}
            for n in LENGTHS
        ]

    named = "default" if axis is None else axis
    narrowest = type_name if type_name in FLOATS else "FLOAT"
    return Case(name=f"concatenation-{named}-{type_name}", define=define, feeds=feeds, narrowest=narrowest)


def identity(type_name: str) -> Case:
    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", dtype(trt, type_name), (-1, 3))
        mark(network, made(network.add_identity(x)))

    narrowest = type_name if type_name in FLOATS else "FLOAT"
    return Case(
        name=f"identity-{type_name}",
        define=define,
        feeds=lambda: one_input(type_name, (-1, 3)),
        narrowest=narrowest,
    )


def constant_output(type_name: str, shape: tuple[int, ...]) -> Case:
    """A constant that is an output by itself, beside an input so that the network has one."""

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", trt.float32, (1,))
        mark(network, made(network.add_identity(x)), "same")
        mark(network, constant(network, trt, sample("c", type_name, shape), type_name))

    name = f"constant-{'x'.join(map(str, shape)) or 'scalar'}-{type_name}"
    narrowest = type_name if type_name in FLOATS else "FLOAT"
    return Case(name=name, define=define, feeds=lambda: one_input("FLOAT", (1,), (1,)), narrowest=narrowest)


def shape_of(type_name: str) -> Case:
    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", dtype(trt, type_name), (-1, 3, -1))
        mark(network, made(network.add_shape(x)))

    return Case(
        name=f"shape-{type_name}", define=define, feeds=lambda: one_input(type_name, (-1, 3, -1), (4, 1, 0))
    )


def fill_static(type_name: str) -> Case:
    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", dtype(trt, type_name), (1,))
        layer = network.add_fill((6,), trt.FillOperation.LINSPACE, dtype(trt, type_name))
        out = made(layer)
        layer.alpha, layer.beta = (2, 3) if type_name in INTS else (2.0, 0.5)
        mark(network, made(network.add_elementwise(out, x, trt.ElementWiseOperation.SUM)))

    return Case(
        name=f"fill-static-{type_name}", define=define, feeds=lambda: one_input(type_name, (1,), (1,))
    )


def fill_dynamic(type_name: str) -> Case:
    """A grid of x's size; start and steps are inputs too."""

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", dtype(trt, type_name), (-1, 4))
        layer = network.add_fill((1, 1), trt.FillOperation.LINSPACE, dtype(trt, type_name))
        layer.set_input(0, made(network.add_shape(x)))
        layer.set_input(1, constant(network, trt, np.array(1), type_name))
        layer.set_input(2, constant(network, trt, np.array([100, 10]), type_name))
        mark(network, layer.get_output(0))

    return Case(name=f"fill-dynamic-{type_name}", define=define, feeds=lambda: one_input(type_name, (-1, 4)))


def fill_dynamic_length_static_values() -> Case:
    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", trt.float32, (-1,))
        layer = network.add_fill((1,), trt.FillOperation.LINSPACE, trt.int32)
        layer.set_input(0, made(network.add_shape(x)))
        layer.alpha, layer.beta = 5, -2
        mark(network, layer.get_output(0))

    return Case(name="fill-dynamic-length", define=define, feeds=lambda: one_input("FLOAT", (-1,)))


def scalars() -> Case:
    """Tensors of no dimensions stay so: input, constant, elementwise, reshape to and from."""

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", trt.float32, ())
        two = constant(network, trt, np.array(2.0), "FLOAT")
        y = made(network.add_elementwise(x, two, trt.ElementWiseOperation.PROD))
        mark(network, y, "scalar")
        up = network.add_shuffle(y)
        up.reshape_dims = (1, 1)
        mark(network, up.get_output(0), "matrix")
        down = network.add_shuffle(up.get_output(0))
        down.reshape_dims = ()
        mark(network, made(network.add_unary(down.get_output(0), trt.UnaryOperation.NEG)), "again")

    return Case(name="scalars", define=define, feeds=lambda: one_input("FLOAT", ()))


def made_in_reverse() -> Case:
    """set_input names the tensor of a layer that is added later: creation order is not execution order."""

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", trt.float32, (-1, 4))
        last = network.add_slice(x, (0, 0), (1, 1), (1, 1))
        size = made(network.add_shape(x))
        halves = constant(network, trt, np.array([1, 2]), "INT64")
        doubled = made(network.add_unary(x, trt.UnaryOperation.NEG))
        last.set_input(2, made(network.add_elementwise(size, halves, trt.ElementWiseOperation.FLOOR_DIV)))
        last.set_input(0, doubled)
        mark(network, last.get_output(0))

    return Case(name="made-in-reverse", define=define, feeds=lambda: one_input("FLOAT", (-1, 4)))


def one_tensor_many_outputs() -> Case:
    """An input that is an output, a tensor that is used twice and marked too, and a dead branch."""

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", trt.float32, (-1, 3))
        y = made(network.add_unary(x, trt.UnaryOperation.ABS))
        mark(network, y, "absolute")
        mark(network, made(network.add_elementwise(y, y, trt.ElementWiseOperation.PROD)), "squared")
        made(network.add_unary(y, trt.UnaryOperation.EXP))

    return Case(name="one-tensor-used-often", define=define, feeds=lambda: one_input("FLOAT", (-1, 3)))


def cases() -> Iterator[Case]:
    for type_name in (*NUMPY,):
        yield shuffle("transpose", (-1, 2, 3), first=(2, 0, 1), type_name=type_name)
        # A -1 beside an empty dimension has no solution, which TensorRT reports as an error.
        yield shuffle("reshape", (-1, 2, 3), reshape=(0, -1), type_name=type_name, lengths=(3, 1))
        yield identity(type_name)
        yield shape_of(type_name)
        yield concatenation(1, type_name)
    yield shuffle("three-steps", (-1, 2, 6), first=(1, 0, 2), reshape=(0, 0, 2, 3), second=(3, 1, 0, 2))
    yield shuffle("second-transpose", (-1, 2, 3), second=(1, 2, 0))
    yield shuffle("merge", (-1, 2, 3), reshape=(-1, 3))
    yield shuffle("split", (-1, 6), reshape=(-1, 2, 3))
    yield shuffle("flatten", (-1, 2, 3), reshape=(-1,))
    yield shuffle("untouched", (-1, 2))
    yield shuffle("zero-means-empty", (-1, 4), reshape=(0, 7), zero_is_placeholder=False, lengths=(0,))
    yield shuffle(
        "zero-copies-after-transpose", (-1, 2, 6), first=(1, 0, 2), reshape=(0, 0, 2, -1), lengths=(3, 1)
    )
    for type_name in ("FLOAT", "BF16", "INT64"):
        yield dynamic_reshape(type_name, "INT64")
    yield dynamic_reshape("HALF", "INT32")
    yield reshape_by_input()
    for axis in (None, 0, 2):
        yield concatenation(axis, "FLOAT")
    for type_name in NUMBERS:
        yield constant_output(type_name, (2, 3))
    yield constant_output("FLOAT", ())
    yield constant_output("FLOAT", (2, 0))
    yield constant_output("BF16", (40, 40))
    for type_name in ("FLOAT", *INTS):
        yield fill_static(type_name)
        yield fill_dynamic(type_name)
    yield fill_dynamic_length_static_values()
    yield scalars()
    yield made_in_reverse()
    yield one_tensor_many_outputs()
