"""Networks of one layer that picks or places elements by value or index, or goes along a dimension in order."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from zoo.case import FLOATS, INTS, NUMBERS, NUMPY, Case, Feed, constant, dtype, made, mark, rng, sample
from zoo.moving import one_input


def _narrowest(type_name: str) -> str:
    return type_name if type_name in FLOATS else "FLOAT"


def topk(type_name: str, operation: str, k: int, axis: int, *, shape: tuple[int, ...] = (-1, 4, 6)) -> Case:
    """Few different values, so that ties are many."""

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", dtype(trt, type_name), shape)
        layer = network.add_topk(x, getattr(trt.TopKOperation, operation), k, 1 << axis)
        mark(network, made(layer))
        mark(network, layer.get_output(1), "where")

    def feeds() -> list[Feed]:
        lengths = (5, 3) if axis == 0 else (3, 1, 0)
        shapes = [tuple(n if d == -1 else d for d in shape) for n in lengths]
        return [{"x": sample("x", type_name, one, "whole")} for one in shapes]

    name = f"topk-{operation}-{type_name}-k{k}-axis{axis}-rank{len(shape)}"
    return Case(name=name, define=define, feeds=feeds, narrowest=_narrowest(type_name))


def topk_by_input() -> Case:
    """k is the value of an input, and the positions are 64 bits wide."""

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", trt.float32, (-1, 6))
        k = network.add_input("k", trt.int32, ())
        layer = network.add_topk(x, trt.TopKOperation.MAX, 1, 2, trt.int64)
        layer.set_input(1, k)
        mark(network, made(layer))
        mark(network, layer.get_output(1), "where")

    def feeds() -> list[Feed]:
        return [
            {"x": sample("x", "FLOAT", (n, 6)), "k": np.array(k, np.int32)}
            for n, k in ((3, 2), (1, 6), (2, 1))
        ]

    return Case(name="topk-by-input", define=define, feeds=feeds, shape_inputs=frozenset({"k"}))


def topk_half_of_length() -> Case:
    """k is half of a length that only the run knows."""

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", trt.float32, (-1,))
        half = network.add_elementwise(
            made(network.add_shape(x)),
            constant(network, trt, [2], "INT64"),
            trt.ElementWiseOperation.FLOOR_DIV,
        )
        scalar = network.add_shuffle(made(network.add_cast(made(half), trt.int32)))
        scalar.reshape_dims = ()
        layer = network.add_topk(x, trt.TopKOperation.MIN, 1, 1)
        layer.set_input(1, scalar.get_output(0))
        mark(network, made(layer))

    return Case(
        name="topk-half-of-length", define=define, feeds=lambda: one_input("FLOAT", (-1,), (7, 2, 40))
    )


def non_zero(type_name: str, shape: tuple[int, ...], index_type: str = "INT32") -> Case:
    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", dtype(trt, type_name), shape)
        # Before 10.14 the type of the indices could not be chosen.
        chosen = () if index_type == "INT32" else (dtype(trt, index_type),)
        mark(network, made(network.add_non_zero(x, *chosen)))

    def feeds() -> list[Feed]:
        if -1 not in shape:
            return (
                [{"x": np.array(value, NUMPY[type_name])} for value in (1, 0)]
                if shape == ()
                else [{"x": sample("x", type_name, shape, "whole")}]
            )
        zeros = {"x": np.zeros(tuple(4 if d == -1 else d for d in shape), NUMPY[type_name])}
        lengths = (3, 1, 0)
        filled = [
            {"x": sample("x", type_name, tuple(n if d == -1 else d for d in shape), "whole")} for n in lengths
        ]
        return [*filled, zeros]

    name = f"non-zero-{type_name}-rank{len(shape)}-{index_type}"
    return Case(name=name, define=define, feeds=feeds)


def masked_select(type_name: str) -> Case:
    """How "compress" is written: the positions of a mask, then a gather; the sum and the count of what is left."""

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", dtype(trt, type_name), (-1, 4))
        mask = network.add_input("mask", trt.bool, (-1, 4))
        places = network.add_shuffle(made(network.add_non_zero(mask)))
        places.second_transpose = trt.Permutation([1, 0])
        picked = made(network.add_gather_v2(x, places.get_output(0), trt.GatherMode.ND))
        mark(network, picked, "picked")
        mark(network, made(network.add_shape(picked)), "count")
        mark(network, made(network.add_reduce(picked, trt.ReduceOperation.MAX, 1, True)), "largest")

    def feeds() -> list[Feed]:
        runs = [
            {"x": sample("x", type_name, (n, 4)), "mask": sample("mask", "BOOL", (n, 4))} for n in (3, 1, 5)
        ]
        return [feed | {"mask": np.maximum(feed["mask"], np.eye(len(feed["x"]), 4) > 0)} for feed in runs]

    return Case(
        name=f"masked-select-{type_name}", define=define, feeds=feeds, narrowest=_narrowest(type_name)
    )


def late_lengths() -> Case:
    """A length that only the run shows, as dimensions of a reshape, a slice and a fill, and of what follows."""

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", trt.float32, (-1, 6))
        picked = made(network.add_non_zero(x))
        count = network.add_slice(made(network.add_shape(picked)), (1,), (1,), (1,)).get_output(0)
        ones = constant(network, trt, [1], "INT64")
        column = network.add_shuffle(made(network.add_cast(picked, trt.float32)))
        column.zero_is_placeholder = False
        column.set_input(
            1, made(network.add_concatenation([count, ones, constant(network, trt, [2], "INT64")]))
        )
        mark(network, column.get_output(0), "column")
        half = made(
            network.add_elementwise(count, constant(network, trt, [2], "INT64"), trt.ElementWiseOperation.DIV)
        )
        first = network.add_slice(picked, (0, 0), (2, 1), (1, 1))
        first.set_input(2, made(network.add_concatenation([constant(network, trt, [2], "INT64"), half])))
        mark(network, first.get_output(0), "first")
        ramp = network.add_fill((0,), trt.FillOperation.LINSPACE, trt.float32)
        parts = (
            count,
            constant(network, trt, np.array(0.5), "FLOAT"),
            constant(network, trt, [2.0], "FLOAT"),
        )
        for index, part in enumerate(parts):
            ramp.set_input(index, part)
        mark(network, ramp.get_output(0), "ramp")
        flat = network.add_shuffle(column.get_output(0))
        flat.reshape_dims = (-1, 2)
        ramp_column = network.add_shuffle(ramp.get_output(0))
        ramp_column.reshape_dims = (-1, 1)
        sums = network.add_elementwise(
            flat.get_output(0), ramp_column.get_output(0), trt.ElementWiseOperation.SUM
        )
        mark(network, made(sums), "sums")

    return Case(
        name="late-lengths",
        define=define,
        feeds=lambda: [{"x": sample("x", "FLOAT", (n, 6), "whole")} for n in (3, 1, 0)],
    )


def scatter_element(type_name: str, index_type: str, axis: int) -> Case:
    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", dtype(trt, type_name), (-1, 4))
        index = network.add_input("index", dtype(trt, index_type), (-1, 2) if axis else (2, -1))
        updates = network.add_input("updates", dtype(trt, type_name), (-1, 2) if axis else (2, -1))
        layer = network.add_scatter(x, index, updates, trt.ScatterMode.ELEMENT)
        layer.axis = axis
        mark(network, made(layer))

    def feeds() -> list[Feed]:
        runs = []
        for n, m in ((3, 3), (5, 1), (2, 0)):
            # Every row (or column) of indices has different ones: what wins of two updates is not defined.
            length = 4 if axis else n
            rows = [rng("index", n, m, row).permutation(length)[:2] for row in range(m)]
            index = np.array(rows, NUMPY[index_type]).reshape(m, 2)
            index = index if axis else index.T
            updates = sample("updates", type_name, index.shape)
            runs.append({"x": sample("x", type_name, (n, 4)), "index": index, "updates": updates})
        return runs

    name = f"scatter-element-{type_name}-{index_type}-axis{axis}"
    return Case(name=name, define=define, feeds=feeds, narrowest=_narrowest(type_name))


def scatter_nd(type_name: str, depth: int) -> Case:
    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", dtype(trt, type_name), (-1, 4, 3))
        index = network.add_input("index", trt.int32, (-1, depth))
        updates = network.add_input("updates", dtype(trt, type_name), (-1, 4, 3)[:1] + (4, 3)[depth - 1 :])
        mark(network, made(network.add_scatter(x, index, updates, trt.ScatterMode.ND)))

    def feeds() -> list[Feed]:
        runs = []
        for n, m in ((5, 3), (2, 1), (3, 0)):
            lengths = (n, 4, 3)[:depth]
            places = rng("places", n, m, depth).permutation(int(np.prod(lengths)))[:m]
            index = np.stack(np.unravel_index(places, lengths), axis=-1).astype(np.int32)
            updates = sample("updates", type_name, (m, *(4, 3)[depth - 1 :]))
            runs.append({"x": sample("x", type_name, (n, 4, 3)), "index": index, "updates": updates})
        return runs

    name = f"scatter-nd-{type_name}-depth{depth}"
    return Case(name=name, define=define, feeds=feeds, narrowest=_narrowest(type_name))


def one_hot(type_name: str, axis: int, rank: int, depth_type: str = "INT32") -> Case:
    def define(network: Any, trt: Any) -> None:
        index = network.add_input("index", trt.int32, (-1, 3)[:rank])
        values = constant(network, trt, np.array([0, 1] if type_name == "BOOL" else [-1, 3]), type_name)
        depth = constant(network, trt, np.array(5), depth_type)
        mark(network, made(network.add_one_hot(index, values, depth, axis)))

    def feeds() -> list[Feed]:
        shapes = [(n, 3)[:rank] for n in ((2, 1, 0) if rank else (1,))]
        return [{"index": rng("hot", shape).integers(0, 5, shape).astype(np.int32)} for shape in shapes]

    name = f"one-hot-{type_name}-axis{axis}-rank{rank}-{depth_type}"
    return Case(name=name, define=define, feeds=feeds, narrowest=_narrowest(type_name))


def cumulative(type_name: str, axis: int, *, exclusive: bool = False, reverse: bool = False) -> Case:
    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", dtype(trt, type_name), (-1, 5))
        along = constant(network, trt, np.array(axis), "INT32" if axis else "INT64")
        operation = trt.CumulativeOperation.SUM
        mark(network, made(network.add_cumulative(x, along, operation, exclusive, reverse)))

    flags = "exclusive-" * exclusive + "reverse-" * reverse
    return Case(
        name=f"cumulative-{flags}{type_name}-axis{axis}",
        define=define,
        feeds=lambda: one_input(type_name, (-1, 5), (3, 1, 0)),
        narrowest=_narrowest(type_name),
    )


def reverse_sequence(type_name: str, batch: int | None, sequence: int | None) -> Case:
    """x [-1, 4, 3]; axes that are None keep their default: 1 and 0."""

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", dtype(trt, type_name), (-1, 4, 3))
        lengths = network.add_input("lengths", trt.int32, ((-1, 4, 3)[1 if batch is None else batch],))
        layer = network.add_reverse_sequence(x, lengths)
        if batch is not None:
            layer.batch_axis = batch
        if sequence is not None:
            layer.sequence_axis = sequence
        mark(network, made(layer))

    def feeds() -> list[Feed]:
        runs = []
        for n in (5, 1):
            shape = (n, 4, 3)
            count, most = shape[1 if batch is None else batch], shape[sequence or 0]
            lengths = rng("lengths", shape, batch, sequence).integers(0, most + 1, count).astype(np.int32)
            runs.append({"x": sample("x", type_name, shape), "lengths": lengths})
        return runs

    name = f"reverse-sequence-{type_name}-batch{batch}-sequence{sequence}"
    return Case(name=name, define=define, feeds=feeds, narrowest=_narrowest(type_name))


def unit_axes(kind: str, shape: tuple[int, ...], axes: Sequence[int], type_name: str = "FLOAT") -> Case:
    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", dtype(trt, type_name), shape)
        add: Callable[[Any, Any], Any] = getattr(network, f"add_{kind}")
        mark(network, made(add(x, constant(network, trt, np.array(axes), "INT64"))))

    places = "-".join(map(str, axes))
    return Case(
        name=f"{kind}-{type_name}-{places}-of-rank{len(shape)}",
        define=define,
        feeds=lambda: one_input(type_name, shape, (3, 1, 0)),
        narrowest=_narrowest(type_name),
    )


def cases() -> Iterator[Case]:
    for type_name in NUMBERS:
        for operation in ("MAX", "MIN"):
            yield topk(type_name, operation, 3, 2)
        yield non_zero(type_name, (-1, 3))
        yield scatter_element(type_name, "INT32", 1)
        yield scatter_nd(type_name, 2)
        yield one_hot(type_name, -1, 2)
        yield cumulative(type_name, 1)
        yield masked_select(type_name)
        yield unit_axes("unsqueeze", (-1, 2), (0, -1), type_name)
    yield topk("FLOAT", "MAX", 1, 1)
    yield topk("FLOAT", "MAX", 2, 0)
    yield topk("INT64", "MIN", 5, 0, shape=(5,))
    yield topk_by_input()
    yield topk_half_of_length()
    yield non_zero("BOOL", (-1, 2, 3))
    yield non_zero("BOOL", (-1,), "INT64")
    yield non_zero("INT32", ())
    yield late_lengths()
    for index_type in INTS:
        yield scatter_element("FLOAT", index_type, 0)
    for depth in (1, 3):
        yield scatter_nd("FLOAT", depth)
    for axis, rank in ((0, 1), (1, 2), (-3, 2), (0, 0), (-1, 0)):
        yield one_hot("FLOAT", axis, rank)
    yield one_hot("BOOL", 1, 1, "INT64")
    for exclusive, reverse in ((True, False), (False, True), (True, True)):
        for axis in (0, -1):
            yield cumulative("FLOAT", axis, exclusive=exclusive, reverse=reverse)
    for type_name in (*NUMBERS, "INT8", "BOOL"):
        yield reverse_sequence(type_name, None, None)
    for batch, sequence in ((0, 1), (1, 2), (2, 0), (2, 1)):
        yield reverse_sequence("FLOAT", batch, sequence)
    for axes in ((0,), (-1, 1), ()):
        yield unit_axes("squeeze", (1, 1, -1, 1)[: 4 if axes else 3], axes)
    for axes in ((2,), (0, 1, 3), ()):
        yield unit_axes("unsqueeze", (-1, 2), axes)
