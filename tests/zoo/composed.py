"""Small networks of several layers, as transformers have them."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from zoo.case import FLOATS, Case, Feed, constant, dtype, made, mark, sample

HIDDEN, FFN = 8, 16


def weight(network: Any, trt: Any, name: str, shape: tuple[int, ...], type_name: str) -> Any:
    values = sample(name, "FLOAT", shape) / math.sqrt(shape[-1])
    return constant(network, trt, values, type_name)


def linear(
    network: Any, trt: Any, x: Any, name: str, sizes: tuple[int, int], rank: int, type_name: str
) -> Any:
    """x W^T + b with W (out, in); both constants have the rank of x."""
    lead = (1,) * (rank - 2)
    matrix = weight(network, trt, name, (*lead, *sizes), type_name)
    bias = constant(network, trt, sample(f"{name}.bias", type_name, (*lead, 1, sizes[0])), type_name)
    product = network.add_matrix_multiply(x, trt.MatrixOperation.NONE, matrix, trt.MatrixOperation.TRANSPOSE)
    return made(network.add_elementwise(made(product), bias, trt.ElementWiseOperation.SUM))


def layer_norm(network: Any, trt: Any, x: Any, name: str, rank: int, type_name: str) -> Any:
    shape = (1,) * (rank - 1) + (HIDDEN,)
    scale = constant(network, trt, sample(f"{name}.scale", type_name, shape, "positive"), type_name)
    bias = constant(network, trt, sample(f"{name}.bias", type_name, shape), type_name)
    return made(network.add_normalization(x, scale, bias, 1 << (rank - 1)))


def packed_tokens(type_name: str) -> list[Feed]:
    return [{"x": sample("x", type_name, (n, HIDDEN))} for n in (5, 1, 0)]


def feed_forward(kind: str, type_name: str) -> Case:
    """y = x + proj(gelu(fc(norm(x)))), on packed tokens."""

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", dtype(trt, type_name), (-1, HIDDEN))
        h = layer_norm(network, trt, x, "norm", 2, type_name)
        h = linear(network, trt, h, "fc", (FFN, HIDDEN), 2, type_name)
        h = made(network.add_activation(h, getattr(trt.ActivationType, kind)))
        h = linear(network, trt, h, "proj", (HIDDEN, FFN), 2, type_name)
        mark(network, made(network.add_elementwise(x, h, trt.ElementWiseOperation.SUM)))

    return Case(
        name=f"feed-forward-{kind}-{type_name}",
        define=define,
        feeds=lambda: packed_tokens(type_name),
        narrowest=type_name,
        roundings=8,
    )


def gated_feed_forward(type_name: str) -> Case:
    """y = x + proj(silu(fc(x)) * gate(x)), silu from sigmoid and product."""

    def define(network: Any, trt: Any) -> None:
        product = trt.ElementWiseOperation.PROD
        x = network.add_input("x", dtype(trt, type_name), (-1, HIDDEN))
        fc = linear(network, trt, x, "fc", (FFN, HIDDEN), 2, type_name)
        gate = linear(network, trt, x, "gate", (FFN, HIDDEN), 2, type_name)
        sigmoid = made(network.add_activation(fc, trt.ActivationType.SIGMOID))
        silu = made(network.add_elementwise(fc, sigmoid, product))
        h = made(network.add_elementwise(silu, gate, product))
        h = linear(network, trt, h, "proj", (HIDDEN, FFN), 2, type_name)
        mark(network, made(network.add_elementwise(x, h, trt.ElementWiseOperation.SUM)))

    return Case(
        name=f"gated-feed-forward-{type_name}",
        define=define,
        feeds=lambda: packed_tokens(type_name),
        narrowest=type_name,
        roundings=9,
    )


def rms_norm(type_name: str) -> Case:
    """As TensorRT-LLM decomposes it: in float32, cast back, then scaled in the narrow type."""

    def define(network: Any, trt: Any) -> None:
        ops = trt.ElementWiseOperation
        x = network.add_input("x", dtype(trt, type_name), (-1, HIDDEN))
        wide = made(network.add_cast(x, trt.float32))
        squared = made(network.add_elementwise(wide, constant(network, trt, [[2.0]], "FLOAT"), ops.POW))
        mean = made(network.add_reduce(squared, trt.ReduceOperation.AVG, 0b10, True))
        shifted = made(network.add_elementwise(mean, constant(network, trt, [[1e-6]], "FLOAT"), ops.SUM))
        root = made(network.add_unary(shifted, trt.UnaryOperation.SQRT))
        normal = made(network.add_elementwise(wide, root, ops.DIV))
        narrow = made(network.add_cast(normal, dtype(trt, type_name)))
        scale = constant(network, trt, sample("scale", type_name, (1, HIDDEN), "positive"), type_name)
        mark(network, made(network.add_elementwise(narrow, scale, ops.PROD)))

    return Case(
        name=f"rms-norm-{type_name}",
        define=define,
        feeds=lambda: packed_tokens(type_name)[:2],
        narrowest=type_name,
        roundings=3,
    )


def attention(type_name: str) -> Case:
    """One masked two-head self-attention with residual and post-norm, batch and length dynamic."""
    heads, size = 2, HIDDEN // 2

    def define(network: Any, trt: Any) -> None:
        ops, none = trt.ElementWiseOperation, trt.MatrixOperation.NONE
        x = network.add_input("x", dtype(trt, type_name), (-1, -1, HIDDEN))
        mask = network.add_input("mask", trt.int32, (-1, -1))
        qkv = linear(network, trt, x, "qkv", (3 * HIDDEN, HIDDEN), 3, type_name)

        split = network.add_shuffle(qkv)
        split.reshape_dims = (0, 0, 3, heads, size)
        split.second_transpose = trt.Permutation((2, 0, 3, 1, 4))
        which = [constant(network, trt, np.array(i), "INT32") for i in range(3)]
        q, k, v = (made(network.add_gather(split.get_output(0), index, 0)) for index in which)

        scores = made(network.add_matrix_multiply(q, none, k, trt.MatrixOperation.TRANSPOSE))
        scale = constant(network, trt, np.full((1, 1, 1, 1), 1 / math.sqrt(size)), type_name)
        scores = made(network.add_elementwise(scores, scale, ops.PROD))
        spread = network.add_shuffle(mask)
        spread.reshape_dims = (0, 1, 1, -1)
        hidden = made(network.add_cast(spread.get_output(0), trt.bool))
        low = constant(network, trt, np.full((1, 1, 1, 1), -1e4), type_name)
        scores = made(network.add_select(hidden, scores, low))
        softmax = network.add_softmax(scores)
        softmax.axes = 0b1000
        context = made(network.add_matrix_multiply(softmax.get_output(0), none, v, none))

        merge = network.add_shuffle(context)
        merge.first_transpose = trt.Permutation((0, 2, 1, 3))
        merge.reshape_dims = (0, 0, HIDDEN)
        dense = linear(network, trt, merge.get_output(0), "dense", (HIDDEN, HIDDEN), 3, type_name)
        total = made(network.add_elementwise(x, dense, ops.SUM))
        mark(network, layer_norm(network, trt, total, "norm", 3, type_name))

    def feeds() -> list[Feed]:
        runs: list[Feed] = []
        for batch, length in ((2, 5), (1, 1), (3, 2)):
            mask = np.ones((batch, length), np.int32)
            mask[0, length // 2 + 1 :] = 0
            runs.append({"x": sample("x", type_name, (batch, length, HIDDEN)), "mask": mask})
        return runs

    return Case(name=f"attention-{type_name}", define=define, feeds=feeds, narrowest=type_name, roundings=12)


def mean_pooling() -> Case:
    """The masked mean of token vectors, then unit length: a sentence encoder's end."""

    def define(network: Any, trt: Any) -> None:
        ops = trt.ElementWiseOperation
        x = network.add_input("x", trt.float32, (-1, -1, HIDDEN))
        mask = network.add_input("mask", trt.int32, (-1, -1))
        floats = made(network.add_cast(mask, trt.float32))
        column = network.add_shuffle(floats)
        column.reshape_dims = (0, 0, 1)
        kept = made(network.add_elementwise(x, column.get_output(0), ops.PROD))
        total = made(network.add_reduce(kept, trt.ReduceOperation.SUM, 0b10, False))
        count = made(network.add_reduce(column.get_output(0), trt.ReduceOperation.SUM, 0b10, False))
        mean = made(network.add_elementwise(total, count, ops.DIV))
        squared = made(network.add_elementwise(mean, mean, ops.PROD))
        norm = made(network.add_reduce(squared, trt.ReduceOperation.SUM, 0b10, True))
        root = made(network.add_unary(norm, trt.UnaryOperation.SQRT))
        mark(network, made(network.add_elementwise(mean, root, ops.DIV)))

    def feeds() -> list[Feed]:
        runs: list[Feed] = []
        for batch, length in ((2, 5), (1, 1), (0, 3)):
            mask = np.ones((batch, length), np.int32)
            mask[:1, length // 2 + 1 :] = 0
            runs.append({"x": sample("x", "FLOAT", (batch, length, HIDDEN)), "mask": mask})
        return runs

    return Case(name="mean-pooling", define=define, feeds=feeds, roundings=4)


def positions() -> Case:
    """arange over the dynamic length, gathered from a table and added: learned positions."""

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", trt.float32, (-1, -1, HIDDEN))
        one = constant(network, trt, np.array([1]), "INT32")
        length = made(network.add_gather(made(network.add_shape(x)), one, 0))
        fill = network.add_fill((1,), trt.FillOperation.LINSPACE, trt.int32)
        fill.set_input(0, length)
        fill.set_input(1, constant(network, trt, np.array(0), "INT32"))
        fill.set_input(2, constant(network, trt, np.array([1]), "INT32"))
        table = constant(network, trt, sample("table", "FLOAT", (16, HIDDEN)), "FLOAT")
        rows = made(network.add_gather(table, fill.get_output(0), 0))
        lift = network.add_shuffle(rows)
        lift.reshape_dims = (1, -1, HIDDEN)
        mark(network, made(network.add_elementwise(x, lift.get_output(0), trt.ElementWiseOperation.SUM)))

    def feeds() -> list[Feed]:
        return [{"x": sample("x", "FLOAT", (batch, n, HIDDEN))} for batch, n in ((2, 5), (1, 16), (1, 1))]

    return Case(name="learned-positions", define=define, feeds=feeds)


def chain(depth: int) -> Case:
    """Alternating scale and tanh: rounding errors neither grow nor hide."""

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", trt.float16, (-1, 4))
        for step in range(depth):
            if step % 2:
                x = made(network.add_activation(x, trt.ActivationType.TANH))
            else:
                factor = constant(network, trt, np.full((1, 4), 1.125), "HALF")
                x = made(network.add_elementwise(x, factor, trt.ElementWiseOperation.PROD))
        mark(network, x)

    return Case(
        name=f"chain-{depth}",
        define=define,
        feeds=lambda: [{"x": sample("x", "HALF", (n, 4))} for n in (3, 1)],
        narrowest="HALF",
        roundings=depth,
    )


def tied_weights() -> Case:
    """One buffer serves two layers, once as it is and once transposed."""

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", trt.float32, (-1, HIDDEN))
        matrix = weight(network, trt, "tied", (FFN, HIDDEN), "FLOAT")
        none, transpose = trt.MatrixOperation.NONE, trt.MatrixOperation.TRANSPOSE
        up = made(network.add_matrix_multiply(x, none, matrix, transpose))
        mark(network, made(network.add_matrix_multiply(up, none, matrix, none)))

    return Case(name="tied-weights", define=define, feeds=lambda: packed_tokens("FLOAT"), roundings=2)


def large_linear(type_name: str, *, transposed: bool) -> Case:
    """Weights of several KiB, kept outside the graph by engines that keep large ones apart."""
    width, out = 96, 64

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", dtype(trt, type_name), (-1, width))
        shape = (out, width) if transposed else (width, out)
        values = sample("large", "FLOAT", shape) / math.sqrt(width)
        matrix = constant(network, trt, values, type_name)
        ops = trt.MatrixOperation
        h = made(network.add_matrix_multiply(x, ops.NONE, matrix, ops.TRANSPOSE if transposed else ops.NONE))
        bias = constant(network, trt, sample("bias", type_name, (1, out)), type_name)
        mark(network, made(network.add_elementwise(h, bias, trt.ElementWiseOperation.SUM)))
        mark(network, made(network.add_gather(matrix, constant(network, trt, [3, 1], "INT32"), 0)), "rows")

    suffix = "out-in" if transposed else "in-out"
    return Case(
        name=f"large-linear-{suffix}-{type_name}",
        define=define,
        feeds=lambda: [{"x": sample("x", type_name, (n, width))} for n in (5, 1, 0)],
        narrowest=type_name,
        roundings=2,
    )


def normalised_by_inputs(type_name: str) -> Case:
    """Scale and bias come from outside."""

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", dtype(trt, type_name), (-1, HIDDEN))
        scale = network.add_input("scale", dtype(trt, type_name), (1, HIDDEN))
        bias = network.add_input("bias", dtype(trt, type_name), (1, HIDDEN))
        mark(network, made(network.add_normalization(x, scale, bias, 0b10)))

    def feeds() -> list[Feed]:
        fixed = {name: sample(name, type_name, (1, HIDDEN)) for name in ("scale", "bias")}
        return [{"x": feed["x"], **fixed} for feed in packed_tokens(type_name)]

    name = f"normalised-by-inputs-{type_name}"
    return Case(name=name, define=define, feeds=feeds, narrowest=type_name, roundings=2)


def flattened_by_arithmetic() -> Case:
    """Shape tensors through reduce, select, comparison, minimum and concatenation."""

    def define(network: Any, trt: Any) -> None:
        ops = trt.ElementWiseOperation
        x = network.add_input("x", trt.float32, (-1, -1, 4))
        shape = made(network.add_shape(x))
        volume = made(network.add_reduce(shape, trt.ReduceOperation.PROD, 0b1, True))
        flat = network.add_shuffle(x)
        flat.set_input(1, volume)
        flat.zero_is_placeholder = False
        mark(network, flat.get_output(0), "flat")

        two = constant(network, trt, np.array([2, 2, 2]), "INT64")
        capped = made(network.add_elementwise(shape, two, ops.MIN))
        is_large = made(network.add_elementwise(shape, two, ops.GREATER))
        size = made(network.add_select(is_large, capped, shape))
        corner = network.add_slice(x, (0, 0, 0), (1, 1, 1), (1, 1, 1))
        corner.set_input(2, size)
        mark(network, corner.get_output(0), "corner")

        four = constant(network, trt, np.array([4]), "INT64")
        rows = made(network.add_elementwise(volume, four, ops.FLOOR_DIV))
        table = network.add_shuffle(flat.get_output(0))
        table.set_input(1, made(network.add_concatenation([rows, four])))
        table.zero_is_placeholder = False
        mark(network, table.get_output(0), "table")

    def feeds() -> list[Feed]:
        return [{"x": sample("x", "FLOAT", (a, b, 4))} for a, b in ((3, 5), (1, 2), (2, 0))]

    return Case(name="shape-arithmetic", define=define, feeds=feeds)


def cases() -> Iterator[Case]:
    for type_name in FLOATS:
        for kind in ("GELU_ERF", "GELU_TANH", "RELU"):
            yield feed_forward(kind, type_name)
        yield gated_feed_forward(type_name)
        yield rms_norm(type_name)
        yield attention(type_name)
        yield large_linear(type_name, transposed=True)
        yield large_linear(type_name, transposed=False)
        yield normalised_by_inputs(type_name)
    yield flattened_by_arithmetic()
    yield mean_pooling()
    yield positions()
    yield chain(40)
    yield tied_weights()
