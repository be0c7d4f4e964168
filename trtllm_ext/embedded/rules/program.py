"""ShapeProgram: from the shapes of a network's inputs to the exact shapes of other tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from trtllm_ext.embedded.enums import DataType
from trtllm_ext.embedded.rules import infer
from trtllm_ext.embedded.rules.known import FLOATS, Known, RuleError, can_hold, known_with
from trtllm_ext.embedded.rules.late import check_dimensions, is_late, largest
from trtllm_ext.embedded.rules.program_parts import (
    ProgramInput,
    ProgramStep,
    constant_to_json,
    defined_number,
    read_constant,
    read_equal_lengths,
    read_input,
    read_step,
)
from trtllm_ext.embedded.rules.reading import as_list, as_object

if TYPE_CHECKING:
    from trtllm_ext.embedded.network import INetworkDefinition
    from trtllm_ext.embedded.tensor import ITensor

FORMAT_VERSION = 1
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


class ShapeProgram:
    """The layers that exact shapes of some tensors depend on, in order, with all that is known beforehand left out.

    Independent of the network it was made from; `to_json()` and `from_json()` carry it through a plan file.
    """

    def __init__(
        self,
        *,
        strongly_typed: bool,
        inputs: Sequence[ProgramInput],
        constants: Mapping[int, Known],
        steps: Sequence[ProgramStep],
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

    def _infer(self, step: ProgramStep, operands: list[Known | None]) -> list[Known]:
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
        one: ProgramInput,
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
            "inputs": [one.to_json() for one in self._inputs],
            "constants": [constant_to_json(number, known) for number, known in self._constants.items()],
            "steps": [step.to_json() for step in self._steps],
            "outputs": self._outputs,
            "shape_inputs": list(self._shape_inputs),
            "equal_lengths": {
                name: [list(place) for place in places] for name, places in self._equal_lengths.items()
            },
        }

    @classmethod
    def from_json(cls, data: Any) -> ShapeProgram:
        """The inverse of `to_json()`. Raises ValueError, saying what is wrong, for anything that it did not write."""
        fields = as_object(data, _FIELDS)
        if fields["version"] != FORMAT_VERSION:
            raise ValueError(
                f"shape program of version {fields['version']!r:.40}; this reads {FORMAT_VERSION}"
            )
        if not isinstance(fields["strongly_typed"], bool):
            raise ValueError("strongly_typed must be true or false")
        defined: set[int] = set()
        inputs = [read_input(one, defined) for one in as_list(fields["inputs"])]
        names = [one.name for one in inputs]
        if len(set(names)) != len(names):
            raise ValueError(f"inputs {names!r:.200} are not all different")
        constants = dict(read_constant(one, defined) for one in as_list(fields["constants"]))
        steps = [read_step(one, defined) for one in as_list(fields["steps"])]
        outputs = fields["outputs"]
        if not isinstance(outputs, dict) or not all(isinstance(name, str) for name in outputs):
            raise ValueError("outputs must be an object")
        for number in outputs.values():
            defined_number(number, defined)
        shape_inputs = as_list(fields["shape_inputs"])
        if not all(isinstance(name, str) and name in names for name in shape_inputs):
            raise ValueError(f"shape_inputs {shape_inputs!r:.200} are not among the inputs")
        return cls(
            strongly_typed=fields["strongly_typed"],
            inputs=inputs,
            constants=constants,
            steps=steps,
            outputs=outputs,
            shape_inputs=shape_inputs,
            equal_lengths=read_equal_lengths(fields["equal_lengths"], {one.name: one for one in inputs}),
        )


def _identity(operand: Known | None) -> Any:
    """What two operands must share to be the same to a rule; those with values are the same only if they are one."""
    if operand is None:
        return None
    return id(operand) if operand.value is not None else (operand.dtype, operand.shape)


def retype(known: Known, dtype: DataType | None) -> Known:
    """`known` with the floating-point type that was set on the tensor, if one was."""
    return known if dtype is None or known.dtype not in FLOATS else Known(dtype, known.shape)
