"""The parts of a shape program, and how each is written as JSON and read back.

What is read is checked: tensors are numbers that are defined once and before they are used. The readers raise
ValueError, saying what is wrong, for anything that was never written. `defined` holds the numbers so far.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trtllm_ext.embedded.enums import DataType, LayerType
from trtllm_ext.embedded.rules.known import Known, can_hold, known_with
from trtllm_ext.embedded.rules.reading import as_int, as_list, as_object
from trtllm_ext.embedded.rules.schema import (
    DATA_TYPE,
    LAYER_TYPE,
    attributes_from_json,
    attributes_to_json,
    read_lengths,
)

_MAX_TENSORS = 10_000_000


@dataclass(frozen=True, slots=True)
class ProgramInput:
    """A network input: its number, name, and the shape it was declared with."""

    number: int
    name: str
    dtype: DataType
    shape: tuple[int, ...]

    def to_json(self) -> list[Any]:
        """The entry of this input."""
        return [self.number, self.name, self.dtype.name, list(self.shape)]


@dataclass(frozen=True, slots=True)
class ProgramStep:
    """A layer: tensors are numbers, -1 for an input that is not set; `retyped` are types set on the outputs."""

    kind: LayerType
    attributes: dict[str, Any]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    retyped: tuple[DataType | None, ...]
    label: str

    def __post_init__(self) -> None:
        # A plugin has answered; its code is not asked again.
        if "asked" in self.attributes:
            object.__setattr__(self, "attributes", {"signature": self.attributes["signature"]})

    def to_json(self) -> dict[str, Any]:
        """The entry of this step."""
        return {
            "kind": self.kind.name,
            "attributes": attributes_to_json(self.kind, self.attributes),
            "inputs": list(self.inputs),
            "outputs": list(self.outputs),
            "retyped": [None if dtype is None else dtype.name for dtype in self.retyped],
            "label": self.label,
        }


def constant_to_json(number: int, known: Known) -> list[Any]:
    """The entry of a tensor that is known beforehand."""
    return [number, known.dtype.name, list(known.shape), _elements_to_json(known)]


def _elements_to_json(known: Known) -> list[Any] | None:
    if known.value is None:
        return None
    flat = known.value.reshape(-1).tolist()
    # JSON has no infinities; a shape that depends on one is not known.
    return [None if isinstance(one, float) and not math.isfinite(one) else one for one in flat]


def _define(data: Any, defined: set[int]) -> int:
    number = as_int(data, 0, _MAX_TENSORS)
    if number in defined:
        raise ValueError(f"tensor {number} is defined twice")
    defined.add(number)
    return number


def defined_number(data: Any, defined: set[int]) -> int:
    """The number of a tensor that there is already."""
    number = as_int(data, 0, _MAX_TENSORS)
    if number not in defined:
        raise ValueError(f"tensor {number} is used before it is defined")
    return number


def _read_shape(data: Any, lowest: int) -> tuple[int, ...]:
    shape = read_lengths(data)
    if any(length < lowest for length in shape):
        raise ValueError(f"shape {shape} has a length below {lowest}")
    return shape


def read_input(data: Any, defined: set[int]) -> ProgramInput:
    """The inverse of `ProgramInput.to_json()`."""
    number, name, dtype, shape = as_list(data, 4, 4)
    if not isinstance(name, str):
        raise ValueError(f"the name of an input must be a string, found {name!r:.80}")
    return ProgramInput(_define(number, defined), name, DATA_TYPE.read(dtype), _read_shape(shape, -1))


def read_constant(data: Any, defined: set[int]) -> tuple[int, Known]:
    """The inverse of `constant_to_json()`."""
    number, dtype_name, lengths, value = as_list(data, 4, 4)
    dtype, shape = DATA_TYPE.read(dtype_name), _read_shape(lengths, 0)
    number = _define(number, defined)
    if value is None:
        return number, Known(dtype, shape)
    if not can_hold(dtype, shape) or len(as_list(value)) != math.prod(shape):
        raise ValueError(f"{value!r:.80} cannot be the values of a {dtype.name} tensor of shape {shape}")
    wanted: tuple[type, ...] = (int,)
    if dtype == DataType.BOOL:
        wanted = (bool,)
    elif dtype == DataType.FLOAT:
        wanted = (float,)
    for one in value:
        if one is not None and (
            type(one) not in wanted or (isinstance(one, float) and not math.isfinite(one))
        ):
            raise ValueError(f"{one!r:.80} is no {dtype.name}")
    return number, known_with(dtype, shape, value)


def read_step(data: Any, defined: set[int]) -> ProgramStep:
    """The inverse of `ProgramStep.to_json()`."""
    fields = as_object(data, {"kind", "attributes", "inputs", "outputs", "retyped", "label"})
    kind = LAYER_TYPE.read(fields["kind"])
    attributes = attributes_from_json(kind, fields["attributes"])
    inputs = tuple(-1 if one == -1 else defined_number(one, defined) for one in as_list(fields["inputs"]))
    outputs = tuple(_define(one, defined) for one in as_list(fields["outputs"]))
    retyped = tuple(
        None if one is None else DATA_TYPE.read(one)
        for one in as_list(fields["retyped"], len(outputs), len(outputs))
    )
    if len(attributes.get("output_types", retyped)) != len(retyped):
        raise ValueError(
            f"{fields['attributes']['output_types']!r:.80} are not the types of {len(retyped)} outputs"
        )
    if not isinstance(fields["label"], str):
        raise ValueError("the label of a step must be a string")
    return ProgramStep(kind, attributes, inputs, outputs, retyped, fields["label"])


def read_equal_lengths(
    data: Any, inputs: Mapping[str, ProgramInput]
) -> dict[str, tuple[tuple[str, int], ...]]:
    """Dimensions of inputs that must have one length, by their name: the inverse of a dict from name to pairs."""
    if not isinstance(data, dict) or not all(isinstance(name, str) for name in data):
        raise ValueError(f"expected an object of names, found {data!r:.80}")
    groups: dict[str, tuple[tuple[str, int], ...]] = {}
    for dimension, places in data.items():
        group = []
        for place in as_list(places):
            name, axis = as_list(place, 2, 2)
            if not isinstance(name, str) or name not in inputs:
                raise ValueError(f"{name!r:.80} is not among the inputs")
            group.append((name, as_int(axis, 0, len(inputs[name].shape) - 1)))
        groups[dimension] = tuple(group)
    return groups
