"""Networks of Einstein sums and assertions."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from zoo.case import FLOATS, INTS, Case, Feed, constant, dtype, made, mark, sample

Shapes = tuple[tuple[int, ...], ...]


def einsum(equation: str, declared: Shapes, runs: tuple[Shapes, ...] = (), type_name: str = "FLOAT") -> Case:
    """declared: the shapes of the inputs; runs: those of each run, where they are not the declared ones."""

    def define(network: Any, trt: Any) -> None:
        inputs = [
            network.add_input(f"x{number}", dtype(trt, type_name), shape)
            for number, shape in enumerate(declared)
        ]
        mark(network, made(network.add_einsum(inputs, equation)))

    def feeds() -> list[Feed]:
        return [
            {f"x{number}": sample(("x", number), type_name, shape) for number, shape in enumerate(shapes)}
            for shapes in runs or (declared,)
        ]

    name = equation.replace(",", "_").replace("->", "=")
    dynamic = "dynamic-" if runs else ""
    narrowest = type_name if type_name in FLOATS else "FLOAT"
    return Case(name=f"einsum-{dynamic}{name}-{type_name}", define=define, feeds=feeds, narrowest=narrowest)


def assertion() -> Case:
    """A condition on lengths, true for each feed; what it reads is of no other use."""

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", trt.float32, (-1, 4))
        other = network.add_input("other", trt.int64, (-1, 3))
        first = [
            made(network.add_gather(made(network.add_shape(one)), constant(network, trt, [0], "INT32"), 0))
            for one in (x, other)
        ]
        equal = made(network.add_elementwise(*first, trt.ElementWiseOperation.EQUAL))
        network.add_assertion(equal, "x and other must have one length")
        mark(network, made(network.add_unary(x, trt.UnaryOperation.NEG)))

    def feeds() -> list[Feed]:
        return [{"x": sample("x", "FLOAT", (n, 4)), "other": np.zeros((n, 3), np.int64)} for n in (3, 1)]

    return Case(name="assertion", define=define, feeds=feeds)


def cases() -> Iterator[Case]:
    for type_name in (*FLOATS, *INTS):
        yield einsum("ij,jk->ik", ((-1, 3), (3, -1)), (((2, 3), (3, 4)), ((0, 3), (3, 1))), type_name)
        yield einsum("ij->ji", ((2, 3),), type_name=type_name)
    yield einsum("ij->", ((2, 3),))
    yield einsum("ij,jk", ((2, 3), (3, 4)))
    yield einsum("ba", ((2, 3),))
    yield einsum("i,i->", ((5,), (5,)))
    yield einsum("i,j -> ij", ((5,), (3,)))
    yield einsum(",ij->ij", ((), (2, 3)))
    yield einsum("->", ((),))
    yield einsum("ijk,ikl->ijl", ((4, 2, 3), (1, 3, 5)))
    yield einsum("ij,jk,kl->il", ((2, 3), (3, 4), (4, 5)))
    yield einsum("ij,ij,ij->j", ((2, 3), (1, 3), (2, 1)))
    heads = ((-1, -1, 2, 4), (-1, -1, 2, 4))
    runs = (((3, 5, 2, 4), (3, 6, 2, 4)), ((1, 1, 2, 4), (1, 2, 2, 4)), ((0, 3, 2, 4), (0, 2, 2, 4)))
    yield einsum("bihd,bjhd->bhij", heads, runs)
    yield einsum("ai,ib->ab", ((2, -1), (-1, 4)), (((2, 3), (3, 4)), ((2, 1), (3, 4)), ((2, 0), (0, 4))))
    yield einsum("abc,dc,ea->bde", ((2, 3, 4), (5, 4), (6, 2)))
    yield assertion()
