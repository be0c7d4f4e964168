"""Networks of one layer that sums over something: reduce, softmax, normalization, matrix product."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from zoo.case import FLOATS, INTS, NUMBERS, Case, Feed, constant, dtype, made, mark, rng, sample


def reduce(op: str, type_name: str, axes: int, *, keep: bool, lengths: tuple[int, ...] = (3, 1)) -> Case:
    """x [-1, 2, 4] over the axes of the mask. Lengths of 0 make a volume empty where axis 0 is reduced."""

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", dtype(trt, type_name), (-1, 2, 4))
        mark(network, made(network.add_reduce(x, getattr(trt.ReduceOperation, op), axes, keep)))

    def feeds() -> list[Feed]:
        domain = "nonzero" if op == "PROD" else "normal"
        return [{"x": sample(op, type_name, (n, 2, 4), domain)} for n in lengths]

    suffix = "keep" if keep else "drop"
    return Case(
        name=f"reduce-{op}-{type_name}-{axes:03b}-{suffix}-{'-'.join(map(str, lengths))}",
        define=define,
        feeds=feeds,
        narrowest=type_name if type_name in FLOATS else "FLOAT",
    )


def softmax(axes: int | None, type_name: str) -> Case:
    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", dtype(trt, type_name), (-1, 3, 5))
        layer = network.add_softmax(x)
        out = made(layer)
        if axes is not None:
            layer.axes = axes
        mark(network, out)

    def feeds() -> list[Feed]:
        return [{"x": sample("softmax", type_name, (n, 3, 5), "wide")} for n in (2, 1, 0)]

    named = "default" if axes is None else f"{axes:03b}"
    return Case(name=f"softmax-{named}-{type_name}", define=define, feeds=feeds, narrowest=type_name)


def normalization(
    kind: str,
    type_name: str,
    *,
    shape: tuple[int, ...],
    axes: int,
    scale_shape: tuple[int, ...],
    groups: int = 1,
    epsilon: float | None = None,
    half_compute: bool = False,
) -> Case:
    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", dtype(trt, type_name), (-1, *shape))
        scale = constant(network, trt, sample("scale", type_name, scale_shape, "positive"), type_name)
        bias = constant(network, trt, sample("bias", type_name, scale_shape), type_name)
        layer = network.add_normalization(x, scale, bias, axes)
        out = made(layer)
        layer.num_groups = groups
        if epsilon is not None:
            layer.epsilon = epsilon
        if half_compute:
            layer.compute_precision = trt.float16
        mark(network, out)

    def feeds() -> list[Feed]:
        return [{"x": sample(kind, type_name, (n, *shape)) + NUMPY_ONE[type_name]} for n in (2, 1)]

    name = f"normalization-{kind}-{type_name}"
    return Case(name=name, define=define, feeds=feeds, narrowest=type_name, roundings=2)


# A mean away from zero, so that forgetting to subtract it shows.
NUMPY_ONE = {name: sample("one", name, (), "powers") ** 2 for name in FLOATS}

# op0, op1 -> shapes of the operands of a product over K = 5
MATRICES = {
    ("NONE", "NONE"): ((-1, 5), (5, 3)),
    ("NONE", "TRANSPOSE"): ((-1, 5), (3, 5)),
    ("TRANSPOSE", "NONE"): ((5, -1), (5, 3)),
    ("TRANSPOSE", "TRANSPOSE"): ((5, -1), (3, 5)),
    ("NONE", "VECTOR"): ((-1, 5), (5,)),
    ("VECTOR", "NONE"): ((5,), (5, -1)),
    ("VECTOR", "TRANSPOSE"): ((5,), (-1, 5)),
    ("TRANSPOSE", "VECTOR"): ((5, -1), (5,)),
    ("VECTOR", "VECTOR"): ((5,), (5,)),
}


def product(ops: tuple[str, str], batch: tuple[tuple[int, ...], tuple[int, ...]], type_name: str) -> Case:
    """Both operands are inputs; `batch` has the leading dimensions of each."""
    shapes = tuple((*lead, *shape) for lead, shape in zip(batch, MATRICES[ops], strict=True))

    def define(network: Any, trt: Any) -> None:
        a = network.add_input("a", dtype(trt, type_name), shapes[0])
        b = network.add_input("b", dtype(trt, type_name), shapes[1])
        operations = [getattr(trt.MatrixOperation, op) for op in ops]
        mark(network, made(network.add_matrix_multiply(a, operations[0], b, operations[1])))

    def feeds() -> list[Feed]:
        def at(shape: tuple[int, ...], n: int) -> tuple[int, ...]:
            return tuple(n if length == -1 else length for length in shape)

        return [
            {"a": sample("a", type_name, at(shapes[0], n)), "b": sample("b", type_name, at(shapes[1], n))}
            for n in (4, 1, 0)
        ]

    lead = "x".join(str(len(b)) + "".join(map(str, b)) for b in batch)
    name = f"matmul-{'-'.join(ops)}-{lead}-{type_name}"
    return Case(name=name, define=define, feeds=feeds, narrowest=type_name)


def product_with_weights(ops: tuple[str, str], rank: int, type_name: str) -> Case:
    """A linear layer: x [-1, (2,) 5] times a constant, in both orientations of the weights."""

    def define(network: Any, trt: Any) -> None:
        lead = (-1, 2)[: rank - 1]
        x = network.add_input("x", dtype(trt, type_name), (*lead, 5))
        shape = (3, 5) if ops[1] == "TRANSPOSE" else (5, 3)
        shape = (1,) * (rank - 2) + shape
        weight = constant(network, trt, sample("weight", type_name, shape), type_name)
        operations = [getattr(trt.MatrixOperation, op) for op in ops]
        mark(network, made(network.add_matrix_multiply(x, operations[0], weight, operations[1])))

    def feeds() -> list[Feed]:
        lead = (2,)[: rank - 2]
        return [{"x": sample("x", type_name, (n, *lead, 5))} for n in (4, 1, 0)]

    name = f"matmul-weights-{'-'.join(ops)}-rank{rank}-{type_name}"
    return Case(name=name, define=define, feeds=feeds, narrowest=type_name)


def product_over_nothing() -> Case:
    """K = 0: a product of zeros."""

    def define(network: Any, trt: Any) -> None:
        a = network.add_input("a", trt.float32, (3, -1))
        b = network.add_input("b", trt.float32, (-1, 2))
        op = trt.MatrixOperation.NONE
        mark(network, made(network.add_matrix_multiply(a, op, b, op)))

    def feeds() -> list[Feed]:
        return [{"a": sample("a", "FLOAT", (3, k)), "b": sample("b", "FLOAT", (k, 2))} for k in (0, 4)]

    return Case(name="matmul-over-nothing", define=define, feeds=feeds)


def batch_over_nothing(ops: tuple[str, str], *, shuffled: bool) -> Case:
    """K = 0 in batches: every matrix of each is zeros, also where an operand is turned by its own transpose."""

    def shape_of(name: str, k: int) -> tuple[int, ...]:
        rows, columns = (2, k) if name == "a" else (k, 3)
        turned = (ops["ab".index(name)] == "TRANSPOSE") != shuffled
        return (4, columns, rows) if turned else (4, rows, columns)

    def define(network: Any, trt: Any) -> None:
        operands = []
        for name, op in zip("ab", ops, strict=True):
            tensor = network.add_input(name, trt.float32, shape_of(name, -1))
            if shuffled:
                layer = network.add_shuffle(tensor)
                layer.first_transpose = (0, 2, 1)
                tensor = layer.get_output(0)
            operands += [tensor, getattr(trt.MatrixOperation, op)]
        mark(network, made(network.add_matrix_multiply(*operands)))

    def feeds() -> list[Feed]:
        return [{name: sample(name, "FLOAT", shape_of(name, k)) for name in "ab"} for k in (0, 4)]

    suffix = "-shuffled" if shuffled else ""
    return Case(name=f"matmul-batch-over-nothing-{'-'.join(ops)}{suffix}", define=define, feeds=feeds)


def long_sum() -> Case:
    """A sum in bf16 or fp16 would stop growing long before 6000 ones are added; partial sums must stay wide."""

    def define(network: Any, trt: Any) -> None:
        for type_name in ("HALF", "BF16"):
            x = network.add_input(f"x_{type_name}", dtype(trt, type_name), (-1, 6000))
            ones = constant(network, trt, np.ones((6000, 1)), type_name)
            none = trt.MatrixOperation.NONE
            mark(network, made(network.add_matrix_multiply(x, none, ones, none)), f"product_{type_name}")
            total = made(network.add_reduce(x, trt.ReduceOperation.SUM, 0b10, True))
            mark(network, total, f"sum_{type_name}")

    def feeds() -> list[Feed]:
        return [{f"x_{t}": np.ones((2, 6000)).astype(sample("", t, ()).dtype) for t in ("HALF", "BF16")}]

    return Case(name="long-sums-stay-wide", define=define, feeds=feeds, narrowest="BF16")


def integer_sums_beyond_floats() -> Case:
    """Sums that no float64 holds, and sums that wrap round."""

    def define(network: Any, trt: Any) -> None:
        for type_name in INTS:
            x = network.add_input(f"x_{type_name}", dtype(trt, type_name), (-1, 3))
            for op in ("SUM", "PROD", "MAX", "MIN", "AVG"):
                reduced = made(network.add_reduce(x, getattr(trt.ReduceOperation, op), 0b10, False))
                mark(network, reduced, f"{op}_{type_name}")

    def feeds() -> list[Feed]:
        large = rng("large").integers(-(2**59), 2**59, (4, 3)) | 1
        wraps = np.array([[2**31 - 1, 2**31 - 1, 5], [-(2**31), -(2**31), -3], [2**30, 2**30, 7], [1, -1, 0]])
        return [{"x_INT32": wraps.astype(np.int32), "x_INT64": large.astype(np.int64)}]

    return Case(name="integer-sums-beyond-floats", define=define, feeds=feeds)


def cases() -> Iterator[Case]:
    for type_name in NUMBERS:
        for op in ("SUM", "PROD", "MAX", "MIN", "AVG"):
            yield reduce(op, type_name, 0b010, keep=True)
    for axes in (0b001, 0b100, 0b011, 0b110, 0b111):
        for keep in (False, True):
            yield reduce("SUM", "FLOAT", axes, keep=keep)
    for op in ("SUM", "PROD", "MAX", "MIN", "AVG"):
        yield reduce(op, "FLOAT", 0b001, keep=False, lengths=(0, 2))
        yield reduce(op, "INT32", 0b001, keep=False, lengths=(0, 2))
    for type_name in FLOATS:
        for axes in (None, 0b001, 0b010, 0b100):
            yield softmax(axes, type_name)
        yield normalization("layer", type_name, shape=(3, 8), axes=0b100, scale_shape=(1, 1, 8), epsilon=1e-3)
        yield normalization("layer-two-axes", type_name, shape=(3, 8), axes=0b110, scale_shape=(1, 3, 8))
        yield normalization("layer-first-axis", type_name, shape=(3, 8), axes=0b010, scale_shape=(1, 3, 1))
        yield normalization("instance", type_name, shape=(4, 3, 5), axes=0b1100, scale_shape=(1, 4, 1, 1))
        group = {"shape": (6, 3, 2), "axes": 0b1100}
        yield normalization("group", type_name, scale_shape=(1, 2, 1, 1), groups=2, **group)
        yield normalization("group-one-each", type_name, scale_shape=(1, 6, 1, 1), groups=6, **group)
    yield normalization(
        "half-compute", "HALF", shape=(8,), axes=0b10, scale_shape=(1, 8), epsilon=1e-3, half_compute=True
    )
    for ops in MATRICES:
        yield product(ops, ((), ()), "FLOAT")
        yield product(ops, ((2,), (2,)), "FLOAT")
    for type_name in ("HALF", "BF16"):
        for ops in (("NONE", "NONE"), ("TRANSPOSE", "TRANSPOSE"), ("NONE", "VECTOR")):
            yield product(ops, ((2,), (2,)), type_name)
    yield product(("NONE", "NONE"), ((2, 1), (1, 3)), "FLOAT")
    yield product(("NONE", "TRANSPOSE"), ((-1, 2), (1, 2)), "FLOAT")
    for type_name in FLOATS:
        for ops in (("NONE", "NONE"), ("NONE", "TRANSPOSE")):
            yield product_with_weights(ops, 2, type_name)
            yield product_with_weights(ops, 3, type_name)
    yield product_over_nothing()
    for ops in itertools.product(("NONE", "TRANSPOSE"), repeat=2):
        for shuffled in (False, True):
            yield batch_over_nothing(ops, shuffled=shuffled)
    yield long_sum()
    yield integer_sums_beyond_floats()
