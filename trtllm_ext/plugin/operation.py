"""What an operation is to everybody who offers it: TensorRT plugin, embedded engine, functional wrapper, docs."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from trtllm_ext.errors import GraphError
from trtllm_ext.suggest import nearest

Choices = type[enum.IntEnum]
NAMESPACE = "trtllm_ext"
INT32_MAX = 2**31 - 1
# Above any float32; JSON and C++ have no infinity in common.
NO_LIMIT = 3.4e38


@dataclass(frozen=True, kw_only=True)
class Field:
    """A named number that a plugin is made from.

    default: None where it must be given. least, most: the values that are taken. choices: the numbers by name, where
    they are an enumeration of the kernels' C interface.
    """

    name: str
    type: Literal["int32", "float32"]
    doc: str
    default: float | None = None
    least: float = 0
    most: float = 1
    choices: Choices | None = None

    def __post_init__(self) -> None:
        """Raises GraphError for a default that the field itself would not take."""
        if self.default is not None and not self.least <= self.default <= self.most:
            raise GraphError(
                f"field {self.name!r}: its default {self.default} is not taken; it is {_kind(self)}. Give another "
                f"default, or another least or most."
            )


def choice(name: str, choices: Choices, doc: str, default: int | None = None) -> Field:
    """A field that is one of an enumeration."""
    numbers = [int(each) for each in choices]
    return Field(
        name=name,
        type="int32",
        doc=doc,
        default=default,
        least=min(numbers),
        most=max(numbers),
        choices=choices,
    )


def switch(name: str, doc: str, default: int = 0) -> Field:
    """A field that is 0 or 1."""
    return Field(name=name, type="int32", doc=doc, default=default)


def number(name: str, doc: str, default: float = 0.0, least: float = 0.0) -> Field:
    """A field of a float32."""
    return Field(name=name, type="float32", doc=doc, default=default, least=least, most=NO_LIMIT)


@dataclass(frozen=True, kw_only=True)
class Operand:
    """An input or an output.

    shape: names of its axes; '...' are all those before. type: the field that holds its type, or 'float32'.
    when, unless: it is there where the field `when` is not 0, and `unless` is.
    """

    name: str
    shape: tuple[str, ...]
    doc: str
    type: str = "type"
    when: str | None = None
    unless: str | None = None

    def is_there(self, fields: Mapping[str, Any]) -> bool:
        """Whether a plugin made from these fields has it."""
        return (self.when is None or bool(fields[self.when])) and not (self.unless and fields[self.unless])


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation: its plugin's identity, fields, inputs and outputs, and what it computes.

    name: the same in kernels, Python, and torch.ops. plugin, version, namespace: as TensorRT's registry has it; an
        operation of somebody else's library has a namespace of its own.
    types: of the field `type` that the kernels take, by their names.
    expansion: the same through `functional`, from all fields by name and a Tensor for each input that is there (None
        for others), by name, to the outputs that are there, in order. It is what the native layers are made of.
    """

    name: str
    plugin: str
    doc: str
    fields: tuple[Field, ...]
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    types: tuple[str, ...]
    expansion: Callable[..., Sequence[Any]]
    version: str = "1"
    namespace: str = NAMESPACE

    @property
    def key(self) -> tuple[str, str, str]:
        """Name, version and namespace, as a registry asks for them."""
        return (self.plugin, self.version, self.namespace)

    def complete(self, given: Mapping[str, Any]) -> dict[str, int | float]:
        """All fields, those not given with their defaults.

        Raises GraphError for an unknown field, one that is missing, and a value that is not taken.
        """
        known = {each.name: each for each in self.fields}
        for name in given:
            if name not in known:
                raise GraphError(f"{self.plugin} has no field {name!r}. {nearest(name, known)}")
        return {name: self._checked(each, given.get(name, each.default)) for name, each in known.items()}

    def inputs_of(self, fields: Mapping[str, Any]) -> tuple[Operand, ...]:
        """The inputs of a plugin made from these fields, in order."""
        return tuple(each for each in self.inputs if each.is_there(fields))

    def expanded(self, fields: Mapping[str, Any], inputs: Sequence[Any]) -> Sequence[Any]:
        """The expansion on the inputs that are there, in order: Tensors in the network being defined.

        Raises GraphError when it does not give a Tensor for each output.
        """
        given = dict.fromkeys(each.name for each in self.inputs)
        given.update(zip((each.name for each in self.inputs_of(fields)), inputs, strict=True))
        results = self.expansion(fields, **given)
        wanted = [each.name for each in self.outputs_of(fields)]
        if not isinstance(results, list | tuple) or len(results) != len(wanted):
            gave = f"{len(results)} of them" if isinstance(results, list | tuple) else type(results).__name__
            raise GraphError(
                f"the expansion of {self.name} gives {gave}; it is to give a tuple of {len(wanted)}, a Tensor for each "
                f"output ({', '.join(wanted)}): return (y,) where there is one."
            )
        return results

    def outputs_of(self, fields: Mapping[str, Any]) -> tuple[Operand, ...]:
        """Its outputs, in order."""
        return tuple(each for each in self.outputs if each.is_there(fields))

    def _checked(self, field: Field, value: Any) -> int | float:
        if value is None:
            raise GraphError(f"{self.plugin} needs its field {field.name!r}: {field.doc}.")
        try:
            taken = int(value) if field.type == "int32" else float(value)
        except (TypeError, ValueError, OverflowError):  # no number at all, or one that no int is
            taken = math.nan
        names = ""
        if field.choices is not None:
            names = f" ({', '.join(f'{int(each)} {each.name}' for each in field.choices)})"
        if taken != value or not field.least <= taken <= field.most:
            raise GraphError(
                f"{self.plugin}: {field.name}={value!r} is not taken; it is {_kind(field)}{names}: {field.doc}."
            )
        return taken


def _kind(field: Field) -> str:
    most = "" if field.most >= NO_LIMIT else f" to {field.most:g}"
    least = "any" if field.least <= -NO_LIMIT else f"from {field.least:g}{most}"
    return f"{'an int32' if field.type == 'int32' else 'a float32'}, {least}"
