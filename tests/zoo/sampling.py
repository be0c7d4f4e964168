"""Networks of one slice or gather layer."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from zoo.case import FLOATS, INTS, NUMPY, Case, Feed, constant, dtype, made, mark, rng, sample
from zoo.moving import one_input

# mode -> start, size, stride of a slice of x [5, 4] that leaves its bounds on every side
OUTSIDE = {
    "FILL": ((-2, 1), (9, 3), (1, 2)),
    "CLAMP": ((-3, 5), (11, 4), (1, -2)),
    "WRAP": ((-7, 3), (16, 6), (1, 3)),
    "REFLECT": ((-13, -4), (27, 10), (1, 1)),
}


def slice_static(
    name: str,
    shape: tuple[int, ...],
    start: Sequence[int],
    size: Sequence[int],
    stride: Sequence[int],
    *,
    mode: str = "STRICT_BOUNDS",
    type_name: str = "FLOAT",
    fill: float | None = None,
    lengths: Sequence[int] = (5,),
) -> Case:
    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", dtype(trt, type_name), shape)
        layer = network.add_slice(x, tuple(start), tuple(size), tuple(stride))
        out = made(layer)
        layer.mode = getattr(trt.SampleMode, mode)
        if fill is not None:
            layer.set_input(4, constant(network, trt, np.array(fill), type_name))
        mark(network, out)

    return Case(
        name=f"slice-{name}-{type_name}",
        define=define,
        feeds=lambda: one_input(type_name, shape, lengths),
        narrowest=type_name if type_name in FLOATS else "FLOAT",
    )


def slice_from_shape(type_name: str, index_type: str) -> Case:
    """The size is computed: the first half of x's columns, for any number of rows."""

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", dtype(trt, type_name), (-1, 6))
        size = made(network.add_shape(x))
        size = made(
            network.add_elementwise(
                size, constant(network, trt, np.array([1, 2]), "INT64"), trt.ElementWiseOperation.FLOOR_DIV
            )
        )
        start = constant(network, trt, np.array([0, 3]), index_type)
        stride = constant(network, trt, np.array([1, 1]), index_type)
        if index_type == "INT32":
            size = made(network.add_cast(size, trt.int32))
        layer = network.add_slice(x, (0, 0), (1, 1), (1, 1))
        layer.set_input(1, start)
        layer.set_input(2, size)
        layer.set_input(3, stride)
        mark(network, layer.get_output(0))

    return Case(
        name=f"slice-from-shape-{index_type}-{type_name}",
        define=define,
        feeds=lambda: one_input(type_name, (-1, 6), (3, 1, 0)),
        narrowest=type_name if type_name in FLOATS else "FLOAT",
    )


def slice_only_size_dynamic() -> Case:
    """Start and stride stay attributes while the size is an input."""

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", trt.float32, (-1, 6))
        wanted = network.add_input("wanted", trt.float32, (-1, 2))
        layer = network.add_slice(x, (0, 1), (1, 1), (1, 3))
        layer.set_input(2, made(network.add_shape(wanted)))
        mark(network, layer.get_output(0))

    def feeds() -> list[Feed]:
        return [
            {"x": sample("x", "FLOAT", (n, 6)), "wanted": sample("w", "FLOAT", (m, 2))}
            for n, m in ((4, 3), (2, 2), (1, 0))
        ]

    return Case(name="slice-only-size-dynamic", define=define, feeds=feeds)


def slice_by_input(mode: str) -> Case:
    """Start is a shape-tensor input."""

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", trt.float32, (5, 4))
        start = network.add_input("start", trt.int64, (2,))
        layer = network.add_slice(x, (0, 0), (3, 2), (1, 1))
        layer.set_input(1, start)
        layer.mode = getattr(trt.SampleMode, mode)
        mark(network, layer.get_output(0))

    def feeds() -> list[Feed]:
        starts = [(0, 0), (2, 1)] if mode == "STRICT_BOUNDS" else [(0, 0), (4, 3), (-1, -3)]
        return [{"x": sample("x", "FLOAT", (5, 4)), "start": np.array(s, np.int64)} for s in starts]

    return Case(name=f"slice-by-input-{mode}", define=define, feeds=feeds, shape_inputs=frozenset({"start"}))


def slice_of_everything(mode: str) -> Case:
    """The dynamic dimension is taken whole, whatever its length; the static one leaves its bounds."""

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", trt.float32, (-1, 3))
        layer = network.add_slice(x, (0, -2), (1, 1), (1, 1))
        factors = constant(network, trt, np.array([1, 2]), "INT64")
        size = network.add_elementwise(made(network.add_shape(x)), factors, trt.ElementWiseOperation.PROD)
        layer.set_input(2, made(size))
        layer.mode = getattr(trt.SampleMode, mode)
        mark(network, layer.get_output(0))

    return Case(
        name=f"slice-of-everything-{mode}",
        define=define,
        feeds=lambda: one_input("FLOAT", (-1, 3), (3, 1, 0)),
    )


def expand(type_name: str) -> Case:
    """TensorRT-LLM's expand: a slice of stride 0 along dimensions of one, sized like another tensor."""

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", dtype(trt, type_name), (-1, 1, 3))
        like = network.add_input("like", trt.float32, (-1, -1, 3))
        layer = network.add_slice(x, (0, 0, 0), (1, 1, 1), (1, 0, 1))
        layer.set_input(2, made(network.add_shape(like)))
        mark(network, layer.get_output(0))

    def feeds() -> list[Feed]:
        return [
            {"x": sample("x", type_name, (n, 1, 3)), "like": sample("like", "FLOAT", (n, m, 3))}
            for n, m in ((2, 4), (1, 1), (2, 0))
        ]

    narrowest = type_name if type_name in FLOATS else "FLOAT"
    return Case(name=f"slice-expand-{type_name}", define=define, feeds=feeds, narrowest=narrowest)


def indices(shape: tuple[int, ...], limit: int, type_name: str, *, negative: bool = False) -> np.ndarray:
    low = -limit if negative else 0
    return rng("indices", shape, limit).integers(low, limit, shape).astype(NUMPY[type_name])


def gather(type_name: str, index_type: str, axis: int, index_rank: int, *, old_call: bool = False) -> Case:
    """x [-1, 4, 3] gathered along an axis by indices of some rank."""

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", dtype(trt, type_name), (-1, 4, 3))
        index = network.add_input("index", dtype(trt, index_type), (2, -1)[:index_rank])
        if old_call:
            layer = network.add_gather(x, index, axis)
        else:
            layer = network.add_gather_v2(x, index, trt.GatherMode.DEFAULT)
        out = made(layer)
        layer.axis = axis
        mark(network, out)

    def feeds() -> list[Feed]:
        runs = []
        for n, m in ((5, 3), (2, 1), (1, 0)):
            limit = (n, 4, 3)[axis]
            index = indices((2, m)[:index_rank], limit, index_type)
            runs.append({"x": sample("x", type_name, (n, 4, 3)), "index": index})
        return runs

    call = "gather" if old_call else "gather_v2"
    return Case(
        name=f"{call}-{type_name}-{index_type}-axis{axis}-rank{index_rank}",
        define=define,
        feeds=feeds,
        narrowest=type_name if type_name in FLOATS else "FLOAT",
    )


def gather_negative() -> Case:
    """Along a static axis, negative indices count from the end."""

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", trt.float32, (-1, 4))
        index = constant(network, trt, np.array([-1, 0, -4, 2]), "INT32")
        mark(network, made(network.add_gather(x, index, 1)))

    return Case(name="gather-negative", define=define, feeds=lambda: one_input("FLOAT", (-1, 4)))


def embedding(type_name: str) -> Case:
    def define(network: Any, trt: Any) -> None:
        ids = network.add_input("ids", trt.int32, (-1, -1))
        table = constant(network, trt, sample("table", type_name, (50, 8)), type_name)
        mark(network, made(network.add_gather(table, ids, 0)))

    def feeds() -> list[Feed]:
        return [{"ids": indices(shape, 50, "INT32")} for shape in ((2, 7), (1, 1), (0, 3))]

    return Case(name=f"gather-embedding-{type_name}", define=define, feeds=feeds, narrowest=type_name)


def gather_rows_together() -> Case:
    """DEFAULT with one elementwise dimension: each row of the indices picks from its own row of the data."""

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", trt.float32, (-1, 4, 3))
        index = network.add_input("index", trt.int32, (-1, 2))
        layer = network.add_gather_v2(x, index, trt.GatherMode.DEFAULT)
        layer.axis = 1
        layer.num_elementwise_dims = 1
        mark(network, layer.get_output(0))

    def feeds() -> list[Feed]:
        return [{"x": sample("x", "FLOAT", (n, 4, 3)), "index": indices((n, 2), 4, "INT32")} for n in (3, 1)]

    return Case(name="gather-elementwise-dim", define=define, feeds=feeds)


def gather_element(type_name: str, axis: int) -> Case:
    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", dtype(trt, type_name), (-1, 4))
        index = network.add_input("index", trt.int32, (-1, 4) if axis == 0 else (-1, 2))
        layer = network.add_gather_v2(x, index, trt.GatherMode.ELEMENT)
        layer.axis = axis
        mark(network, layer.get_output(0))

    def feeds() -> list[Feed]:
        runs = []
        for n in (3, 1):
            shape, limit = ((n + 2, 4), n) if axis == 0 else ((n, 2), 4)
            runs.append({"x": sample("x", type_name, (n, 4)), "index": indices(shape, limit, "INT32")})
        return runs

    narrowest = type_name if type_name in FLOATS else "FLOAT"
    return Case(
        name=f"gather-element-{type_name}-axis{axis}", define=define, feeds=feeds, narrowest=narrowest
    )


def gather_nd(type_name: str, depth: int, leading: int) -> Case:
    """x [-1, 4, 3]; indices pick `depth` dimensions after the `leading` ones."""
    lengths = (3, 4, 3)[leading : leading + depth]

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", dtype(trt, type_name), (-1, 4, 3))
        index = network.add_input("index", trt.int32, (-1, 2, depth))
        layer = network.add_gather_v2(x, index, trt.GatherMode.ND)
        layer.num_elementwise_dims = leading
        mark(network, layer.get_output(0))

    def feeds() -> list[Feed]:
        parts = [indices((3, 2, 1), length, "INT32") for length in lengths]
        return [{"x": sample("x", type_name, (3, 4, 3)), "index": np.concatenate(parts, axis=-1)}]

    narrowest = type_name if type_name in FLOATS else "FLOAT"
    return Case(
        name=f"gather-nd-{type_name}-depth{depth}-leading{leading}",
        define=define,
        feeds=feeds,
        narrowest=narrowest,
    )


def cases() -> Iterator[Case]:
    for type_name in NUMPY:
        yield slice_static("plain", (5, 4), (1, 0), (2, 4), (2, 1), type_name=type_name)
        for mode, (start, size, stride) in OUTSIDE.items():
            yield slice_static(mode, (5, 4), start, size, stride, mode=mode, type_name=type_name)
        yield slice_from_shape(type_name, "INT64")
        yield expand(type_name)
        yield gather(type_name, "INT32", 1, 2)
        yield gather_element(type_name, 1)
        yield gather_nd(type_name, 2, 0)
    yield slice_static("backwards", (5, 4), (4, 3), (5, 2), (-1, -2))
    yield slice_static("stride-zero", (5, 1), (0, 0), (5, 3), (1, 0))
    yield slice_static("nothing", (5, 4), (1, 1), (0, 3), (1, 1))
    yield slice_static("dynamic-input", (-1, 4), (0, 1), (1, 2), (1, 1), lengths=(3, 1))
    for type_name, value in (("FLOAT", -1e9), ("HALF", 2.5), ("BF16", -3.0), ("INT32", 7), ("BOOL", True)):
        start, size, stride = OUTSIDE["FILL"]
        yield slice_static(
            "fill-value", (5, 4), start, size, stride, mode="FILL", type_name=type_name, fill=value
        )
    yield slice_static("reflect-one", (1, 4), (-2, 0), (5, 4), (1, 1), mode="REFLECT")
    yield slice_static("clamp-dynamic", (-1, 4), (-1, -1), (4, 6), (1, 1), mode="CLAMP", lengths=(3, 1))
    yield slice_static("wrap-dynamic", (-1, 4), (-1, -1), (4, 6), (1, 1), mode="WRAP", lengths=(3, 1))
    yield slice_static("reflect-dynamic", (-1, 4), (-1, -1), (4, 6), (1, 1), mode="REFLECT", lengths=(3, 2))
    for mode in OUTSIDE:
        yield slice_of_everything(mode)
    yield slice_from_shape("HALF", "INT32")
    yield slice_only_size_dynamic()
    for mode in ("STRICT_BOUNDS", "FILL", "CLAMP", "WRAP", "REFLECT"):
        yield slice_by_input(mode)
    for index_type in INTS:
        for axis in (0, 1, 2):
            yield gather("FLOAT", index_type, axis, 1, old_call=True)
    yield gather("FLOAT", "INT32", 0, 0)
    yield gather_negative()
    for type_name in FLOATS:
        yield embedding(type_name)
    yield gather_rows_together()
    yield gather_element("FLOAT", 0)
    for depth, leading in ((1, 0), (3, 0), (1, 1), (2, 1)):
        yield gather_nd("FLOAT", depth, leading)
