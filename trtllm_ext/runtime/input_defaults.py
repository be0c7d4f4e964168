"""Inputs that a run may leave out, and what they are given then: those by which a run changes an engine's network.

An engine directory's config.json names them (`builder.surgery`), so that whoever does not know of them runs the network
as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from trtllm_ext.errors import EngineError
from trtllm_ext.runtime.memory import Memory
from trtllm_ext.runtime.tensors import Port, Shape

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class InputDefault:
    """value: in every place. shape: sizes, or (input, axis) for one that is as long as that input's axis in a run."""

    value: float
    shape: tuple[int | tuple[str, int], ...]

    def shape_beside(self, shapes: Mapping[str, Shape]) -> Shape:
        """The shape in a run whose inputs have these shapes; 1 for a length that they do not tell."""
        return tuple(dim if isinstance(dim, int) else _length(shapes, *dim) for dim in self.shape)

    def to_json(self) -> dict[str, Any]:
        """As config.json has it."""
        return {
            "value": self.value,
            "shape": [dim if isinstance(dim, int) else list(dim) for dim in self.shape],
        }

    @classmethod
    def from_json(cls, values: Any) -> InputDefault:
        """The reverse of `to_json`. Raises EngineError for anything else."""
        try:
            dims = [dim if isinstance(dim, int) else (str(dim[0]), int(dim[1])) for dim in values["shape"]]
            return cls(float(values["value"]), tuple(dims))
        except (TypeError, KeyError, IndexError, ValueError) as problem:
            raise EngineError(
                f"the engine's config has {values!r:.80} for an input that a run may leave out, where value and shape "
                f"are expected ({problem})."
            ) from problem


def _length(shapes: Mapping[str, Shape], name: str, axis: int) -> int:
    shape = shapes.get(name, ())
    return shape[axis] if axis < len(shape) else 1


def defaults_of(config: Mapping[str, Any]) -> dict[str, InputDefault]:
    """The inputs that a run may leave out, by an engine directory's config. Raises EngineError where it is damaged."""
    try:
        given = {
            name: each
            for point in config.get("surgery", {}).values()
            for name, each in point["inputs"].items()
        }
    except (AttributeError, TypeError, KeyError) as problem:
        raise EngineError(
            f"the engine's config has {config.get('surgery')!r:.80} as surgery, where each name has inputs ({problem})."
        ) from problem
    return {str(name): InputDefault.from_json(each) for name, each in given.items()}


class LeftOut:
    """Completes the inputs of runs. All inputs of one value and type read one block of memory, however many they are.

    defaults: those of names that the engine does not have are not looked at.
    """

    def __init__(self, defaults: Mapping[str, InputDefault], ports: Iterable[Port], memory: Memory) -> None:
        self._ports = {port.name: port for port in ports if port.name in defaults}
        self.defaults = {name: defaults[name] for name in self._ports}
        self._memory = memory
        self._sources = tuple(
            sorted(
                {dim[0] for each in self.defaults.values() for dim in each.shape if isinstance(dim, tuple)}
            )
        )
        self._blocks: dict[tuple[float, str], Array] = {}
        self._shapes: tuple[Shape, ...] | None = None
        self._values: dict[str, Array] = {}

    def completed(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """`inputs` and the values of those left out; `inputs` itself where that is none, or it is no mapping."""
        if not self.defaults or not isinstance(inputs, Mapping):
            return inputs
        shapes = tuple(tuple(getattr(inputs.get(name), "shape", ())) for name in self._sources)
        if shapes != self._shapes:
            beside = dict(zip(self._sources, shapes, strict=True))
            self._values = {name: self._value(name, each, beside) for name, each in self.defaults.items()}
            self._shapes = shapes
        return {**self._values, **inputs}

    def completed_shapes(self, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        """As `completed`, of shapes."""
        return {name: each.shape_beside(shapes) for name, each in self.defaults.items()} | dict(shapes)

    def _value(self, name: str, default: InputDefault, beside: Mapping[str, Shape]) -> Array:
        port = self._ports[name]
        shape = default.shape_beside(beside)
        if port.ranges and len(shape) == len(port.shape):
            # An input that is longer than any profile allows is refused; no memory is to be taken for it before.
            most = [max(most[axis] for _, most in port.ranges) for axis in range(len(shape))]
            shape = tuple(map(min, shape, most))
        key, count = (default.value, port.numpy_dtype.name), math.prod(shape)
        block = self._blocks.get(key)
        if block is None or block.size < count:
            # Twice the last one, so that lengths that grow do not make a block each.
            size = max(count, 2 * block.size if block is not None else 0)
            block = self._blocks[key] = np.full(size, default.value, port.numpy_dtype)
            block.flags.writeable = False
            self._memory.share(f"all inputs left out that are {key[0]} in {key[1]}", block)
        return block[:count].reshape(shape)
