"""What the build settles with a plugin: types, tactic, workspace, and the fields that the engine keeps of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trtllm_ext.embedded.enums import PluginCapabilityType, TensorFormat
from trtllm_ext.embedded.node import Node
from trtllm_ext.embedded.plan.plugins import FieldRecord, PluginRecord, PluginStep
from trtllm_ext.embedded.plugins.asking import PluginError, PluginHandle
from trtllm_ext.embedded.plugins.descriptions import DynamicPluginTensorDesc, described, described_range
from trtllm_ext.embedded.plugins.fields import (
    PluginField,
    PluginFieldCollection,
    PluginFieldCollection_,
)
from trtllm_ext.embedded.plugins.interfaces import IPluginV3OneBuildV2
from trtllm_ext.embedded.rules.plugin import Signature
from trtllm_ext.embedded.tensor import ITensor
from trtllm_ext.embedded.tensor_types import element_type_of
from trtllm_ext.errors import BuildError

Shape = tuple[int, ...]
_MAX_TACTIC = 2**31 - 1


@dataclass(frozen=True)
class Range:
    """Shapes of a plugin's inputs (shape inputs left out) and outputs at one point of a profile; -1 where unknown."""

    inputs: Sequence[Shape]
    outputs: Sequence[Shape]

    @property
    def all(self) -> list[Shape]:
        """Inputs, then outputs."""
        return [*self.inputs, *self.outputs]


# Minimum, optimum and maximum of a profile.
Ranges = tuple[Range, Range, Range]


def prepare(
    node: Node,
    names: tuple[Sequence[str], Sequence[str]],
    number: int,
    profiles: Sequence[Ranges],
    aliasing: bool,
) -> tuple[PluginRecord, PluginStep]:
    """Settle one plugin layer: its record and its step, which calls plugin `number`.

    names: of the values that the step takes and makes. profiles: shapes by profile. aliasing: whether outputs may lie
    in the memory of inputs. Raises BuildError naming the layer, with what the plugin did wrong.
    """
    try:
        return _Preparation(node).settle(names, number, profiles, aliasing)
    except PluginError as error:
        raise BuildError(f"{node.name}: {error}") from error


class _Preparation:
    def __init__(self, node: Node) -> None:
        self._node = node
        # The build works on a clone of its own, as different builds of one network may.
        self._handle: PluginHandle = node.attributes["handle"].clone()
        self._build = self._handle.part(PluginCapabilityType.BUILD)
        self._runtime = self._handle.part(PluginCapabilityType.RUNTIME)
        self._signature: Signature = node.attributes["signature"]
        given = node.inputs[: self._signature.num_inputs]
        self._tensors: list[ITensor] = [tensor for tensor in (*given, *node.outputs) if tensor is not None]
        self._num_inputs = len(given)

    def settle(
        self,
        names: tuple[Sequence[str], Sequence[str]],
        number: int,
        profiles: Sequence[Ranges],
        aliasing: bool,
    ) -> tuple[PluginRecord, PluginStep]:
        self._check_output_types()
        self._check_formats(profiles[0])
        workspace = tactic = 0
        for ranges in profiles:
            inputs, outputs = self._split(self._described(ranges))
            self._handle.ask(self._build, "configure_plugin", inputs, outputs)
            tactic = self._first_tactic()
            workspace = max(workspace, self._workspace(inputs, outputs))
        self._handle.ask(self._runtime, "set_tactic", tactic)
        for _, optimum, _ in profiles:
            if not any(-1 in shape for shape in optimum.all):
                rows = zip(self._tensors, optimum.all, strict=True)
                descs = [described(tensor.dtype, shape) for tensor, shape in rows]
                self._handle.ask(self._runtime, "on_shape_change", *self._split(descs))
        record = PluginRecord(
            name=self._handle.name,
            version=self._handle.version,
            namespace=self._handle.namespace,
            layer=self._node.name,
            fields=self._fields(),
            tactic=tactic,
            workspace_bytes=workspace,
        )
        types = tuple(
            element_type_of(tensor.dtype, tensor.name).name
            for tensor in self._node.inputs
            if tensor is not None
        )
        aliases = self._aliases() if aliasing else ()
        step = PluginStep(number, tuple(names[0]), types, tuple(names[1]), self._signature, aliases)
        return record, step

    def _check_output_types(self) -> None:
        for output, (tensor, dtype) in enumerate(
            zip(self._node.outputs, self._signature.dtypes, strict=True)
        ):
            if tensor.dtype != dtype:
                raise PluginError(
                    f"{self._handle.label} makes {dtype.name} as output {output}, but the tensor's type was set to "
                    f"{tensor.dtype.name}; add a cast instead"
                )

    def _check_formats(self, ranges: Ranges) -> None:
        """Ask for each tensor in turn, those before it settled, as TensorRT does."""
        settled = self._described(ranges)
        asked = [DynamicPluginTensorDesc() for _ in settled]
        for position, (desc, tensor) in enumerate(zip(settled, self._tensors, strict=True)):
            asked[position] = desc
            answer = self._handle.ask(
                self._build, "supports_format_combination", position, list(asked), self._num_inputs
            )
            if not answer:
                raise PluginError(
                    f"{self._handle.label} does not support {tensor.name!r}, its {self._place(position)}, as "
                    f"{tensor.dtype.name} in format {TensorFormat.LINEAR.name}, the only one of the embedded engine; "
                    "cast the tensor to a type that the plugin supports"
                )

    def _place(self, position: int) -> str:
        number = position - self._num_inputs
        return f"output {number}" if number >= 0 else f"input {position}"

    def _described(self, ranges: Ranges) -> list[DynamicPluginTensorDesc]:
        rows = zip(self._tensors, *(one.all for one in ranges), strict=True)
        return [
            described_range(tensor.dtype, tuple(tensor.shape), low, opt, high)
            for tensor, low, opt, high in rows
        ]

    def _split(self, descs: list[Any]) -> tuple[list[Any], list[Any]]:
        return descs[: self._num_inputs], descs[self._num_inputs :]

    def _first_tactic(self) -> int:
        tactics = self._handle.ask(self._build, "get_valid_tactics")
        numbers = list(tactics) if isinstance(tactics, Sequence | np.ndarray) else [tactics]
        for tactic in numbers:
            if not hasattr(tactic, "__index__") or not 1 <= tactic.__index__() <= _MAX_TACTIC:
                raise PluginError(
                    f"{self._handle.label}: get_valid_tactics() gave {tactics!r:.80}, where a list of positive "
                    "numbers belongs"
                )
        return int(numbers[0]) if numbers else 0

    def _workspace(self, inputs: list[Any], outputs: list[Any]) -> int:
        size = self._handle.ask(self._build, "get_workspace_size", inputs, outputs)
        if not hasattr(size, "__index__") or not 0 <= size.__index__() < 2**48:
            raise PluginError(
                f"{self._handle.label}: get_workspace_size() gave {size!r:.80}, where a number of bytes belongs"
            )
        return int(size)

    def _aliases(self) -> tuple[tuple[int, int], ...]:
        if not isinstance(self._build, IPluginV3OneBuildV2):
            return ()
        found = []
        for output in range(len(self._node.outputs)):
            number = self._handle.ask(self._build, "get_aliased_input", output)
            if not isinstance(number, int) or not -1 <= number < self._num_inputs:
                raise PluginError(
                    f"{self._handle.label}: get_aliased_input({output}) gave {number!r:.80}, where -1 or the number "
                    f"of one of {self._num_inputs} inputs belongs"
                )
            if number >= 0:
                found.append((output, number))
        if len({number for _, number in found}) != len(found):
            raise PluginError(f"{self._handle.label}: get_aliased_input() gave one input for two outputs")
        return tuple(found)

    def _fields(self) -> tuple[FieldRecord, ...]:
        fields = self._handle.ask(self._runtime, "get_fields_to_serialize")
        if not isinstance(fields, PluginFieldCollection | PluginFieldCollection_ | list):
            raise PluginError(
                f"{self._handle.label}: get_fields_to_serialize() gave {fields!r:.80}, where a "
                "PluginFieldCollection belongs"
            )
        return tuple(self._field(one) for one in fields)

    def _field(self, field: Any) -> FieldRecord:
        if not isinstance(field, PluginField):
            raise PluginError(
                f"{self._handle.label}: {field!r:.80} is among its fields, and is no PluginField"
            )
        try:
            return FieldRecord(name=field.name, type=field.type.name, data=field._raw())
        except ValueError as error:
            raise PluginError(f"{self._handle.label}: {error}") from None
