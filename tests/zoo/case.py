"""What a network of the zoo is: a definition against TensorRT's raw API, and inputs to run it on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

NUMPY = {
    "FLOAT": np.dtype(np.float32),
    "HALF": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "BOOL": np.dtype(np.bool_),
    "INT8": np.dtype(np.int8),
    "FP8": np.dtype(ml_dtypes.float8_e4m3fn),
}
FLOATS = ("FLOAT", "HALF", "BF16")
INTS = ("INT32", "INT64")
NUMBERS = FLOATS + INTS

Feed = Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One network.

    define(network, trt) adds inputs and layers and marks outputs. feeds() gives the inputs of each run; the
    profile spans exactly the shapes (and, for shape_inputs, the values) that they have. narrowest is the
    narrowest floating type that a value is rounded to on its way, roundings how often on the longest way.
    """

    name: str
    define: Callable[[Any, Any], None]
    feeds: Callable[[], list[Feed]]
    strongly_typed: bool = True
    narrowest: str = "FLOAT"
    roundings: int = 1
    shape_inputs: frozenset[str] = field(default_factory=frozenset)

    def __str__(self) -> str:
        return self.name


class DefinitionError(Exception):
    """An add_* call of a zoo network returned None."""


def made(layer: Any) -> Any:
    """The layer's first output; raises DefinitionError where the network refused to add the layer."""
    if layer is None:
        raise DefinitionError("add_* returned None; the logger has the reason")
    return layer.get_output(0)


def mark(network: Any, tensor: Any, name: str = "y") -> None:
    tensor.name = name
    network.mark_output(tensor)


def dtype(trt: Any, name: str) -> Any:
    return getattr(trt.DataType, name)


def constant(network: Any, trt: Any, values: Any, type_name: str) -> Any:
    """A constant tensor.

    bfloat16 and fp8 go by address, which is the one way that TensorRT's API has for it; there are no constants of
    booleans, so those are cast from int32.
    """
    stored = "INT32" if type_name == "BOOL" else type_name
    array = np.asarray(values, NUMPY[stored], order="C")
    _ALIVE.append(array)
    if stored in ("BF16", "FP8"):
        weights = trt.Weights(dtype(trt, stored), array.ctypes.data, array.size)
    else:
        weights = trt.Weights(array)
    tensor = made(network.add_constant(array.shape, weights))
    return made(network.add_cast(tensor, trt.bool)) if type_name == "BOOL" else tensor


# Weights are borrowed until the build; the zoo's are small, so they live as long as the process.
_ALIVE: list[np.ndarray] = []


def rng(*key: Any) -> np.random.Generator:
    """A generator seeded by the key alone, so that a case has the same numbers in every process."""
    digest = np.frombuffer(repr(key).encode(), np.uint8)
    return np.random.default_rng(np.concatenate([digest, [len(digest)]]).astype(np.uint32))


def sample(seed: Any, type_name: str, shape: tuple[int, ...], domain: str = "normal") -> np.ndarray:
    """Values of a type from a domain: each is exact in that type, so that engine and oracle start from the same."""
    generator = rng(seed, type_name, shape, domain)
    if type_name == "BOOL":
        return generator.integers(0, 2, shape).astype(np.bool_)
    if type_name == "INT8":
        return generator.integers(-128, 128, shape).astype(np.int8)
    if type_name in INTS:
        low, high = {"positive": (1, 7), "exponent": (0, 4)}.get(domain, (-9, 10))
        if domain in ("nonzero", "powers"):
            low, high = 1, 7
        values = generator.integers(low, high, shape)
        if low == 1 and domain != "positive":
            values = values * generator.choice([-1, 1], shape)
        return values.astype(NUMPY[type_name])
    return _FLOAT_DOMAINS[domain](generator, shape).astype(NUMPY[type_name])


def _special(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return generator.choice([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.5, -2.0], shape)


_FLOAT_DOMAINS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "normal": lambda g, shape: g.normal(size=shape),
    "wide": lambda g, shape: g.normal(size=shape) * 4.0,
    "positive": lambda g, shape: g.uniform(0.25, 3.0, shape),
    "exponent": lambda g, shape: g.uniform(-2.0, 2.0, shape),
    "nonzero": lambda g, shape: g.choice([-1.0, 1.0], shape) * g.uniform(0.5, 3.0, shape),
    "unit": lambda g, shape: g.uniform(-0.9, 0.9, shape),
    "above_one": lambda g, shape: g.uniform(1.1, 4.0, shape),
    "halves": lambda g, shape: g.integers(-9, 10, shape) * 0.5,
    "whole": lambda g, shape: g.integers(-3, 4, shape).astype(np.float64),
    # Quotients by powers of two stay half way between integers, whatever the type.
    "between": lambda g, shape: g.integers(-9, 9, shape) + 0.5,
    "powers": lambda g, shape: g.choice([-1.0, 1.0], shape),
    "special": _special,
}
