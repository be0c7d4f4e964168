"""ShapeProgram: from the shapes of a network's inputs to the exact shapes of other tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trtllm_ext.embedded.enums import DataType, LayerType
from trtllm_ext.embedded.rules import infer
from trtllm_ext.embedded.rules.known import FLOATS, Known, RuleError, can_hold, known_with
from trtllm_ext.embedded.rules.late import check_dimensions, is_late, largest
from trtllm_ext.embedded.rules.schema import (
    DATA_TYPE,
    LAYER_TYPE,
    as_int,
    attributes_from_json,
    attributes_to_json,
    read_lengths,
)

if TYPE_CHECKING:
    from trtllm_ext.embedded.network import INetworkDefinition
    from trtllm_ext.embedded.tensor import ITensor

FORMAT_VERSION = 1
_MAX_TENSORS = 10_000_000
_FIELDS = {
    "version",
    "strongly_typed",
    "inputs",
    "constants",
    "steps",
    "outputs",
    "shape_inputs",
    "equal_lengths",
}


@dataclass(frozen=True, slots=True)
class _Input:
    """A network input: its number, name, and the shape it was declared with."""

    number: int
    name: str
    dtype: DataType
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Step:
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


class ShapeProgram:
    """The layers that exact shapes of some tensors depend on, in order, with all that is known beforehand left out.

    Independent of the network it was made from; `to_json()` and `from_json()` carry it through a plan file.
    """

    def __init__(
        self,
        *,
        strongly_typed: bool,
        inputs: Sequence[_Input],
        constants: Mapping[int, Known],
        steps: Sequence[_Step],
        outputs: Mapping[str, int],
        shape_inputs: Sequence[str],
        equal_lengths: Mapping[str, Sequence[tuple[str, int]]],
    ) -> None:
        self._strongly_typed = strongly_typed
        self._inputs = tuple(inputs)
        self._constants = dict(constants)
        self._steps = tuple(steps)
        self._outputs = dict(outputs)
        self._shape_inputs = tuple(shape_inputs)
        self._equal_lengths = {name: tuple(places) for name, places in equal_lengths.items()}
        # Steps of one form give the same results for the same operands: layers repeat, and are inferred once a run.
        forms: dict[tuple[Any, ...], int] = {}
        self._forms = [
            forms.setdefault((step.kind, repr(step.attributes), step.retyped), len(forms)) for step in steps
        ]

    @classmethod
    def of(
        cls, network: INetworkDefinition, tensor_names: Sequence[str] | Mapping[str, ITensor]
    ) -> ShapeProgram:
        """The program for the named tensors, which may be inputs, outputs or any other tensors of the network.

        tensor_names: or tensors, by the names that `run()` is to give their shapes.

        Raises RuleError if a name is unknown, or if a layer on the way is wrong.
        """
        from trtllm_ext.embedded.rules.compile import compile_program

        return compile_program(cls, network, tensor_names)

    @property
    def shape_inputs(self) -> tuple[str, ...]:
        """The network inputs whose values, not only shapes, must be given to `run`."""
        return self._shape_inputs

    def run(
        self,
        shapes: Mapping[str, Sequence[int]],
        values: Mapping[str, np.ndarray[Any, Any]] | None = None,
        *,
        at_most: bool = False,
    ) -> dict[str, tuple[int, ...]]:
        """The exact shapes of the named tensors, with -1 for lengths that follow from a layer such as NON_ZERO.

        shapes: by input name; those of inputs that nothing depends on may be left out. values: the content of the
        `shape_inputs`, of their dtype. at_most: take such a length to be the largest that there can be, not -1.

        Raises RuleError (a ValueError) if an input is missing or does not fit its declaration, if dimensions of one
        name differ, if a layer cannot work on these shapes, or if a shape depends on values that are data.
        """
        known: dict[int, Known] = dict(self._constants)
        for one in self._inputs:
            known[one.number] = self._bind(one, shapes, values or {})
        self._check_equal_lengths({one.name: known[one.number].shape for one in self._inputs})
        inferred: dict[tuple[Any, ...], list[Known]] = {}
        late: set[int] = set()
        for step, form in zip(self._steps, self._forms, strict=True):
            operands = [None if number < 0 else known[number] for number in step.inputs]
            are_late = [number in late for number in step.inputs]
            check_dimensions(step.kind, step.attributes, step.label, operands, are_late)
            key = (form, *(_identity(operand) for operand in operands))
            results = inferred.get(key)
            if results is None:
                results = self._infer(step, operands)
                results = inferred[key] = (
                    largest(step.kind, step.attributes, operands, results) if at_most else results
                )
            known.update(zip(step.outputs, results, strict=True))
            late.update(
                number for number in step.outputs if is_late(known[number], step.kind, operands, are_late)
            )
        return {name: known[number].shape for name, number in self._outputs.items()}

    def _infer(self, step: _Step, operands: list[Known | None]) -> list[Known]:
        try:
            results = infer(step.kind, step.attributes, operands, self._strongly_typed)
        except RuleError as error:
            raise RuleError(f"{step.label}: {error}") from None
        if len(results) != len(step.outputs):
            raise RuleError(
                f"{step.label}: has {len(step.outputs)} outputs, where {len(results)} are computed"
            )
        return [retype(result, dtype) for result, dtype in zip(results, step.retyped, strict=True)]

    def _bind(
        self,
        one: _Input,
        shapes: Mapping[str, Sequence[int]],
        values: Mapping[str, np.ndarray[Any, Any]],
    ) -> Known:
        if one.name in shapes:
            shape = tuple(int(length) for length in shapes[one.name])
        elif -1 not in one.shape:
            shape = one.shape
        else:
            raise RuleError(f"the shape of input {one.name!r}, declared as {one.shape}, is not given")
        fits = len(shape) == len(one.shape) and all(
            length >= 0 and declared in (-1, length)
            for length, declared in zip(shape, one.shape, strict=False)
        )
        if not fits:
            raise RuleError(f"input {one.name!r} has shape {shape}, but it was declared as {one.shape}")
        if one.name not in self._shape_inputs:
            return Known(one.dtype, shape)
        if one.name not in values:
            raise RuleError(f"the values of input {one.name!r} decide shapes, and are not given")
        array = np.asarray(values[one.name])
        if array.shape != shape:
            raise RuleError(f"input {one.name!r} has shape {shape}, but values of shape {array.shape}")
        return known_with(
            one.dtype, shape, array.reshape(-1).tolist() if can_hold(one.dtype, shape) else None
        )

    def _check_equal_lengths(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        for dimension, places in self._equal_lengths.items():
            lengths = [shapes[name][axis] for name, axis in places]
            if len(set(lengths)) > 1:
                listed = ", ".join(
                    f"{length} in dimension {axis} of {name!r}"
                    for length, (name, axis) in zip(lengths, places, strict=True)
                )
                raise RuleError(
                    f"dimensions named {dimension!r} must be equal, but their lengths are {listed}"
                )

    def to_json(self) -> dict[str, Any]:
        """The program in JSON's types."""
        return {
            "version": FORMAT_VERSION,
            "strongly_typed": self._strongly_typed,
            "inputs": [[one.number, one.name, one.dtype.name, list(one.shape)] for one in self._inputs],
            "constants": [
                [number, known.dtype.name, list(known.shape), _write_value(known)]
                for number, known in self._constants.items()
            ],
            "steps": [
                {
                    "kind": step.kind.name,
                    "attributes": attributes_to_json(step.kind, step.attributes),
                    "inputs": list(step.inputs),
                    "outputs": list(step.outputs),
                    "retyped": [None if dtype is None else dtype.name for dtype in step.retyped],
                    "label": step.label,
                }
                for step in self._steps
            ],
            "outputs": self._outputs,
            "shape_inputs": list(self._shape_inputs),
            "equal_lengths": {
                name: [list(place) for place in places] for name, places in self._equal_lengths.items()
            },
        }

    @classmethod
    def from_json(cls, data: Any) -> ShapeProgram:
        """The inverse of `to_json()`. Raises ValueError, saying what is wrong, for anything that it did not write."""
        fields = _object(data, _FIELDS)
        if fields["version"] != FORMAT_VERSION:
            raise ValueError(
                f"shape program of version {fields['version']!r:.40}; this reads {FORMAT_VERSION}"
            )
        if not isinstance(fields["strongly_typed"], bool):
            raise ValueError("strongly_typed must be true or false")
        defined: set[int] = set()
        inputs = [_read_input(one, defined) for one in _list(fields["inputs"])]
        names = [one.name for one in inputs]
        if len(set(names)) != len(names):
            raise ValueError(f"inputs {names!r:.200} are not all different")
        constants = dict(_read_constant(one, defined) for one in _list(fields["constants"]))
        steps = [_read_step(one, defined) for one in _list(fields["steps"])]
        outputs = fields["outputs"]
        if not isinstance(outputs, dict) or not all(isinstance(name, str) for name in outputs):
            raise ValueError("outputs must be an object")
        for number in outputs.values():
            _defined(number, defined)
        shape_inputs = _list(fields["shape_inputs"])
        if not all(isinstance(name, str) and name in names for name in shape_inputs):
            raise ValueError(f"shape_inputs {shape_inputs!r:.200} are not among the inputs")
        return cls(
            strongly_typed=fields["strongly_typed"],
            inputs=inputs,
            constants=constants,
            steps=steps,
            outputs=outputs,
            shape_inputs=shape_inputs,
            equal_lengths=_read_equal_lengths(fields["equal_lengths"], {one.name: one for one in inputs}),
        )


def _identity(operand: Known | None) -> Any:
    """What two operands must share to be the same to a rule; those with values are the same only if they are one."""
    if operand is None:
        return None
    return id(operand) if operand.value is not None else (operand.dtype, operand.shape)


def retype(known: Known, dtype: DataType | None) -> Known:
    """`known` with the floating-point type that was set on the tensor, if one was."""
    return known if dtype is None or known.dtype not in FLOATS else Known(dtype, known.shape)


def _write_value(known: Known) -> list[Any] | None:
    if known.value is None:
        return None
    flat = known.value.reshape(-1).tolist()
    # JSON has no infinities; a shape that depends on one is not known.
    return [None if isinstance(one, float) and not math.isfinite(one) else one for one in flat]


def _object(data: Any, keys: set[str]) -> dict[str, Any]:
    if not isinstance(data, dict) or set(data) != keys:
        raise ValueError(f"expected an object with {sorted(keys)}, found {data!r:.200}")
    return data


def _list(data: Any, length: int | None = None) -> list[Any]:
    if not isinstance(data, list) or length not in (None, len(data)):
        raise ValueError(f"expected a list{'' if length is None else f' of {length}'}, found {data!r:.200}")
    return data


def _define(data: Any, defined: set[int]) -> int:
    number = as_int(data, 0, _MAX_TENSORS)
    if number in defined:
        raise ValueError(f"tensor {number} is defined twice")
    defined.add(number)
    return number


def _defined(data: Any, defined: set[int]) -> int:
    number = as_int(data, 0, _MAX_TENSORS)
    if number not in defined:
        raise ValueError(f"tensor {number} is used before it is defined")
    return number


def _read_shape(data: Any, lowest: int) -> tuple[int, ...]:
    shape = read_lengths(data)
    if any(length < lowest for length in shape):
        raise ValueError(f"shape {shape} has a length below {lowest}")
    return shape


def _read_input(data: Any, defined: set[int]) -> _Input:
    number, name, dtype, shape = _list(data, 4)
    if not isinstance(name, str):
        raise ValueError(f"the name of an input must be a string, found {name!r:.80}")
    return _Input(_define(number, defined), name, DATA_TYPE.read(dtype), _read_shape(shape, -1))


def _read_constant(data: Any, defined: set[int]) -> tuple[int, Known]:
    number, dtype_name, lengths, value = _list(data, 4)
    dtype, shape = DATA_TYPE.read(dtype_name), _read_shape(lengths, 0)
    number = _define(number, defined)
    if value is None:
        return number, Known(dtype, shape)
    if not can_hold(dtype, shape) or len(_list(value)) != math.prod(shape):
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


def _read_step(data: Any, defined: set[int]) -> _Step:
    fields = _object(data, {"kind", "attributes", "inputs", "outputs", "retyped", "label"})
    kind = LAYER_TYPE.read(fields["kind"])
    attributes = attributes_from_json(kind, fields["attributes"])
    inputs = tuple(-1 if one == -1 else _defined(one, defined) for one in _list(fields["inputs"]))
    outputs = tuple(_define(one, defined) for one in _list(fields["outputs"]))
    retyped = tuple(
        None if one is None else DATA_TYPE.read(one) for one in _list(fields["retyped"], len(outputs))
    )
    if len(attributes.get("output_types", retyped)) != len(retyped):
        raise ValueError(
            f"{fields['attributes']['output_types']!r:.80} are not the types of {len(retyped)} outputs"
        )
    if not isinstance(fields["label"], str):
        raise ValueError("the label of a step must be a string")
    return _Step(kind, attributes, inputs, outputs, retyped, fields["label"])


def _read_equal_lengths(data: Any, inputs: Mapping[str, _Input]) -> dict[str, tuple[tuple[str, int], ...]]:
    if not isinstance(data, dict) or not all(isinstance(name, str) for name in data):
        raise ValueError(f"expected an object of names, found {data!r:.80}")
    groups: dict[str, tuple[tuple[str, int], ...]] = {}
    for dimension, places in data.items():
        group = []
        for place in _list(places):
            name, axis = _list(place, 2)
            if not isinstance(name, str) or name not in inputs:
                raise ValueError(f"{name!r:.80} is not among the inputs")
            group.append((name, as_int(axis, 0, len(inputs[name].shape) - 1)))
        groups[dimension] = tuple(group)
    return groups
