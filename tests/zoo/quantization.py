"""Networks with quantize and dequantize layers, and with tensors of INT8, FP8 and INT4."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from zoo.case import FLOATS, Case, Feed, constant, dtype, made, mark, rng, sample

_ROWS = (4, 1, 0)
QUANTIZED = ("INT8", "FP8")


def _scale(network: Any, trt: Any, shape: tuple[int, ...], seed: str, type_name: str = "FLOAT") -> Any:
    return constant(network, trt, rng("scale", seed).uniform(0.05, 0.6, shape), type_name)


def _quantized(network: Any, x: Any, scale: Any, to: Any, axis: int = -1) -> Any:
    layer = network.add_quantize(x, scale, to)
    output = made(layer)
    layer.axis = axis
    return output


def _dequantized(network: Any, x: Any, scale: Any, to: Any, axis: int = -1) -> Any:
    layer = network.add_dequantize(x, scale, to)
    output = made(layer)
    layer.axis = axis
    return output


def there(type_name: str, to: str, scale_shape: tuple[int, ...], axis: int) -> Case:
    """Quantize x [-1, 6, 8]; the scale in the input's type where that is narrow."""

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", dtype(trt, type_name), (-1, 6, 8))
        scale = _scale(network, trt, scale_shape, "there", type_name)
        mark(network, _quantized(network, x, scale, dtype(trt, to), axis))

    return Case(
        name=f"quantize-{type_name}-{to}-{'x'.join(map(str, scale_shape)) or 'scalar'}",
        define=define,
        feeds=lambda: [{"x": sample("there", type_name, (n, 6, 8), "wide")} for n in _ROWS],
        narrowest="FP8" if to == "FP8" else "FLOAT",
    )


def back(source: str, to: str, scale_shape: tuple[int, ...], axis: int) -> Case:
    """Dequantize x [-1, 6, 8]."""

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", dtype(trt, source), (-1, 6, 8))
        mark(
            network, _dequantized(network, x, _scale(network, trt, scale_shape, "back"), dtype(trt, to), axis)
        )

    return Case(
        name=f"dequantize-{source}-{to}-{'x'.join(map(str, scale_shape)) or 'scalar'}",
        define=define,
        feeds=lambda: [{"x": sample("back", source, (n, 6, 8), "wide")} for n in _ROWS],
        narrowest=to,
    )


def in_blocks(type_name: str, scale_shape: tuple[int, ...]) -> Case:
    """x (4, 8) to FP8 and back, with a scale for each block."""

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", dtype(trt, type_name), (4, 8))
        scale = _scale(network, trt, scale_shape, "blocks")
        blocks = _quantized(network, x, scale, dtype(trt, "FP8"))
        mark(network, blocks, "blocks")
        mark(network, _dequantized(network, blocks, scale, dtype(trt, type_name)))

    return Case(
        name=f"blocks-{type_name}-{'x'.join(map(str, scale_shape))}",
        define=define,
        feeds=lambda: [{"x": sample("blocks", type_name, (4, 8), "wide")}],
        narrowest="FP8",
    )


def product(source: str, to: str, *, per_channel: bool, strongly_typed: bool = True) -> Case:
    """A linear layer whose operands are quantized: x [-1, 3, 16] and weights (5, 16)."""

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", dtype(trt, to), (-1, 3, 16))
        step = _scale(network, trt, (), "activation")
        activation = _quantized(network, x, step, dtype(trt, source))
        activation = _dequantized(network, activation, step, dtype(trt, to))
        weights = constant(network, trt, sample("weights", source, (1, 5, 16)), source)
        scale = _scale(network, trt, (5,) if per_channel else (), "weights")
        weights = _dequantized(network, weights, scale, dtype(trt, to), 1)
        none, transpose = trt.MatrixOperation.NONE, trt.MatrixOperation.TRANSPOSE
        mark(network, made(network.add_matrix_multiply(activation, none, weights, transpose)))

    return Case(
        name=f"product-{source}-{to}-{'channel' if per_channel else 'tensor'}-{'strong' if strongly_typed else 'weak'}",
        define=define,
        feeds=lambda: [{"x": sample("product", to, (n, 3, 16))} for n in _ROWS],
        narrowest=to,
        roundings=2,
        strongly_typed=strongly_typed,
    )


def int4_weights(scale_shape: tuple[int, ...]) -> Case:
    """x [-1, 8] times weights (8, 6) of INT4, two in a byte."""
    packed = rng("int4").integers(0, 256, 24).astype(np.uint8)

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", dtype(trt, "HALF"), (-1, 8))
        given = trt.Weights(trt.int4, packed.ctypes.data, 48)
        weights = made(network.add_constant((8, 6), given))
        weights = _dequantized(
            network, weights, _scale(network, trt, scale_shape, "int4"), dtype(trt, "HALF"), 1
        )
        none = trt.MatrixOperation.NONE
        mark(network, made(network.add_matrix_multiply(x, none, weights, none)))

    return Case(
        name=f"int4-weights-{'x'.join(map(str, scale_shape)) or 'scalar'}",
        define=define,
        feeds=lambda: [{"x": sample("int4", "HALF", (n, 8))} for n in _ROWS],
        narrowest="HALF",
        roundings=3,
    )


_MOVES: dict[str, Callable[[Any, Any, Any], Any]] = {
    "identity": lambda network, trt, x: network.add_identity(x),
    "slice": lambda network, trt, x: network.add_slice(x, (1, 2), (2, 3), (1, -1)),
    "concatenation": lambda network, trt, x: network.add_concatenation([x, x]),
    "gather": lambda network, trt, x: network.add_gather(x, constant(network, trt, [3, 0, 0], "INT32"), 0),
    "shuffle": lambda network, trt, x: network.add_shuffle(x),
}


def moved(type_name: str, move: str) -> Case:
    """Movement of x [4, -1], bit for bit."""

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", dtype(trt, type_name), (4, -1))
        layer = _MOVES[move](network, trt, x)
        if move == "shuffle":
            layer.first_transpose, layer.reshape_dims = (1, 0), (0, 2, 2)
        mark(network, made(layer))

    def feeds() -> list[Feed]:
        return [{"x": sample("moved", type_name, (4, n), "wide")} for n in (5, 3)]

    return Case(name=f"moved-{type_name}-{move}", define=define, feeds=feeds)


def cast(source: str, to: str) -> Case:
    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", dtype(trt, source), (-1, 5))
        mark(network, made(network.add_cast(x, dtype(trt, to))))

    return Case(
        name=f"cast-{source}-{to}",
        define=define,
        feeds=lambda: [{"x": sample("cast", source, (n, 5), "wide")} for n in _ROWS],
        narrowest=to if to in (*FLOATS, "FP8") else "FLOAT",
    )


def cases() -> Iterator[Case]:
    for to in QUANTIZED:
        for type_name in FLOATS:
            yield there(type_name, to, (), -1)
            yield there(type_name, to, (6,), 1)
            yield back(to, type_name, (), -1)
            yield back(to, type_name, (8,), 2)
            for per_channel in (False, True):
                yield product(to, type_name, per_channel=per_channel)
        yield product(to, "FLOAT", per_channel=True, strongly_typed=False)
        for move in _MOVES:
            yield moved(to, move)
        for type_name in (*FLOATS, "INT32", "INT64", "BOOL"):
            yield cast(type_name, to)
            yield cast(to, type_name)
    yield in_blocks("FLOAT", (4, 2))
    yield in_blocks("HALF", (2, 8))
    for shape in ((), (6,), (4, 6), (8, 3)):
        yield int4_weights(shape)
