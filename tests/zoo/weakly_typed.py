"""Networks without STRONGLY_TYPED: mixed types, layer precision, explicit output types."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from zoo import composed, pointwise, reducing
from zoo.case import Case, Feed, constant, dtype, made, mark, sample


def mixed_sum(first: str, second: str) -> Case:
    def define(network: Any, trt: Any) -> None:
        a = network.add_input("a", dtype(trt, first), (-1, 4))
        b = network.add_input("b", dtype(trt, second), (1, 4))
        mark(network, made(network.add_elementwise(a, b, trt.ElementWiseOperation.SUM)))

    def feeds() -> list[Feed]:
        return [{"a": sample("a", first, (n, 4)), "b": sample("b", second, (1, 4))} for n in (3, 1, 0)]

    return Case(
        name=f"weak-sum-{first}-{second}", define=define, feeds=feeds, strongly_typed=False, narrowest="HALF"
    )


def half_weights() -> Case:
    """float32 activations times half weights."""

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", trt.float32, (-1, 8))
        w = constant(network, trt, sample("w", "HALF", (4, 8)), "HALF")
        none, transpose = trt.MatrixOperation.NONE, trt.MatrixOperation.TRANSPOSE
        mark(network, made(network.add_matrix_multiply(x, none, w, transpose)))

    return Case(
        name="weak-half-weights",
        define=define,
        feeds=lambda: [{"x": sample("x", "FLOAT", (n, 8))} for n in (3, 1)],
        strongly_typed=False,
        narrowest="HALF",
    )


def mixed_types() -> Case:
    """Every layer kind that takes several floating tensors, with types that differ: the result is float32."""

    def define(network: Any, trt: Any) -> None:
        a = network.add_input("a", trt.float16, (-1, 4))
        b = network.add_input("b", trt.float32, (-1, 4))
        c = network.add_input("c", trt.bfloat16, (-1, 4))
        flags = network.add_input("flags", trt.bool, (-1, 4))
        mark(network, made(network.add_concatenation([a, b, c])), "concatenation")
        mark(network, made(network.add_select(flags, a, b)), "select")
        mark(network, made(network.add_elementwise(a, c, trt.ElementWiseOperation.MAX)), "maximum")
        scale = constant(network, trt, sample("scale", "FLOAT", (1, 4)), "FLOAT")
        bias = constant(network, trt, sample("bias", "BF16", (1, 4)), "BF16")
        mark(network, made(network.add_normalization(a, scale, bias, 0b10)), "normalization")
        none, transpose = trt.MatrixOperation.NONE, trt.MatrixOperation.TRANSPOSE
        mark(network, made(network.add_matrix_multiply(a, none, c, transpose)), "matmul")

    def feeds() -> list[Feed]:
        types = {"a": "HALF", "b": "FLOAT", "c": "BF16", "flags": "BOOL"}
        return [{name: sample(name, t, (n, 4)) for name, t in types.items()} for n in (3, 1, 0)]

    return Case(name="weak-mixed-types", define=define, feeds=feeds, strongly_typed=False, narrowest="HALF")


def precision_alone() -> Case:
    """Half inside, float32 out."""

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", trt.float32, (-1, 4))
        layer = network.add_activation(x, trt.ActivationType.TANH)
        layer.precision = trt.float16
        mark(network, made(layer))

    return Case(
        name="weak-precision-alone",
        define=define,
        feeds=lambda: [{"x": sample("x", "FLOAT", (n, 4))} for n in (3, 1)],
        strongly_typed=False,
        narrowest="HALF",
        roundings=2,
    )


def output_type_by_tensor() -> Case:
    """A network output whose type is set on the tensor."""

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", trt.float32, (-1, 4))
        out = made(network.add_activation(x, trt.ActivationType.SIGMOID))
        mark(network, out)
        out.dtype = trt.float16

    return Case(
        name="weak-output-type-by-tensor",
        define=define,
        feeds=lambda: [{"x": sample("x", "FLOAT", (n, 4))} for n in (3, 1)],
        strongly_typed=False,
        narrowest="HALF",
        roundings=2,
    )


def layer_precision() -> Case:
    """A layer told to compute and give out half in a float32 network."""

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", trt.float32, (-1, 4))
        layer = network.add_activation(x, trt.ActivationType.SIGMOID)
        layer.precision = trt.float16
        layer.set_output_type(0, trt.float16)
        out = made(layer)
        last = network.add_elementwise(out, out, trt.ElementWiseOperation.SUM)
        last.set_output_type(0, trt.float32)
        mark(network, made(last))

    return Case(
        name="weak-layer-precision",
        define=define,
        feeds=lambda: [{"x": sample("x", "FLOAT", (n, 4))} for n in (3, 1)],
        strongly_typed=False,
        narrowest="HALF",
        roundings=3,
    )


def converting_identity(source: str, target: str) -> Case:
    """An identity layer whose output type is set converts."""

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", dtype(trt, source), (-1, 4))
        layer = network.add_identity(x)
        layer.set_output_type(0, dtype(trt, target))
        mark(network, made(layer))

    domain = "halves" if source in ("FLOAT", "HALF") else "normal"
    return Case(
        name=f"weak-identity-{source}-{target}",
        define=define,
        feeds=lambda: [{"x": sample("x", source, (n, 4), domain)} for n in (3, 1)],
        strongly_typed=False,
        narrowest="HALF",
    )


def cases() -> Iterator[Case]:
    yield mixed_sum("FLOAT", "HALF")
    yield mixed_sum("HALF", "FLOAT")
    yield mixed_sum("HALF", "HALF")
    yield half_weights()
    yield mixed_types()
    yield layer_precision()
    yield precision_alone()
    yield output_type_by_tensor()
    for source in ("FLOAT", "HALF", "INT32", "BOOL"):
        for target in ("FLOAT", "HALF", "INT32", "BOOL"):
            yield converting_identity(source, target)
    again = [
        pointwise.binary("DIV", "FLOAT", ("normal", "nonzero")),
        pointwise.unary("ERF", "HALF", "normal"),
        reducing.softmax(0b100, "HALF"),
        composed.feed_forward("GELU_TANH", "HALF"),
        composed.attention("FLOAT"),
        composed.attention("HALF"),
    ]
    for case in again:
        yield dataclasses.replace(case, name=f"weak-{case.name}", strongly_typed=False)
