"""Calls of plugins during a run."""

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trtllm_ext.embedded.enums import PluginCapabilityType
from trtllm_ext.embedded.plan import PluginRecord, PluginStep
from trtllm_ext.embedded.plugins.asking import PluginError, PluginHandle
from trtllm_ext.embedded.plugins.descriptions import PluginTensorDesc, described
from trtllm_ext.embedded.plugins.making import attached
from trtllm_ext.embedded.rules.known import RuleError
from trtllm_ext.embedded.running.memory import Blocks
from trtllm_ext.embedded.running.place import Place
from trtllm_ext.embedded.tensor_types import element_type_named
from trtllm_ext.embedded.types import storage_dtype, volume

Shape = tuple[int, ...]


@dataclass
class _Shapes:
    """What follows from the shapes of a call's inputs; lengths of `exact` are -1 where the call will tell them."""

    exact: list[Shape]
    room: list[Shape]
    inputs: list[PluginTensorDesc]
    outputs: list[PluginTensorDesc]


class PluginCall:
    """One plugin step of a context, with a clone of the plugin of its own.

    Raises PluginError if the plugin cannot be attached.
    """

    def __init__(self, step: PluginStep, record: PluginRecord, handle: PluginHandle, blocks: Blocks) -> None:
        self.step = step
        self.name = record.layer
        self._handle = attached(handle, record)
        self._runtime = self._handle.part(PluginCapabilityType.RUNTIME)
        self._blocks = blocks
        self._workspace_bytes = record.workspace_bytes
        self._signature = step.signature
        self._sizes = step.signature.sizes
        self._input_dtypes = [element_type_named(name).dtype for name in step.input_types]
        self._input_bytes = [storage_dtype(dtype).itemsize for dtype in self._input_dtypes]
        self._output_bytes = [storage_dtype(dtype).itemsize for dtype in self._signature.dtypes]
        self._key: Any = None
        self._shapes: _Shapes | None = None

    def run(self, values: dict[str, Place], targets: Mapping[str, Place], stream: int) -> None:
        """Compute the outputs and put them among `values`.

        values: has the inputs. targets: where outputs of exactly known shape are wanted; others get memory here.
        Raises PluginError naming the layer.
        """
        try:
            self._run(values, targets, stream)
        except (PluginError, RuleError) as error:
            raise PluginError(f"{self.name}: {error}") from error

    def _run(self, values: dict[str, Place], targets: Mapping[str, Place], stream: int) -> None:
        given = [values[name] for name in self.step.inputs]
        shapes = self._shapes_for(given)
        outputs = [
            self._output(number, shapes, targets.get(name)) for number, name in enumerate(self.step.outputs)
        ]
        addresses = [place.address for place in given[: self._signature.num_inputs]]
        for output, number in self.step.aliases:
            addresses[number] = self._aliased(output, number, given, outputs, shapes)
        workspace = self._blocks.take(self._workspace_bytes) if self._workspace_bytes else None
        self._handle.ask(
            self._runtime,
            "enqueue",
            list(shapes.inputs),
            list(shapes.outputs),
            addresses,
            [place.address for place in outputs],
            0 if workspace is None else workspace.address,
            stream,
        )
        if workspace is not None:
            self._blocks.give(workspace)
        self._settle(given, outputs)
        values.update(zip(self.step.outputs, outputs, strict=True))

    def _shapes_for(self, given: Sequence[Place]) -> _Shapes:
        first = self._signature.num_inputs
        input_shapes = [place.shape for place in given[:first]]
        elements = self._elements(given)
        key = (input_shapes, elements)
        if self._shapes is not None and key == self._key:
            return self._shapes
        exact = self._signature.output_shapes(input_shapes, elements)
        found = _Shapes(
            exact=exact,
            room=self._signature.room(input_shapes, elements) if self._sizes else exact,
            inputs=[described(*one) for one in zip(self._input_dtypes, input_shapes, strict=False)],
            outputs=[described(*one) for one in zip(self._signature.dtypes, exact, strict=True)],
        )
        self._shapes = None
        self._handle.ask(self._runtime, "on_shape_change", list(found.inputs), list(found.outputs))
        self._key, self._shapes = key, found
        return found

    def _elements(self, given: Sequence[Place]) -> list[tuple[int, ...]]:
        first = self._signature.num_inputs
        return [
            tuple(self._read(place, number).tolist())
            for number, place in enumerate(given[first:], start=first)
        ]

    def _read(self, place: Place, number: int) -> np.ndarray[Any, Any]:
        data = ctypes.string_at(place.address, volume(place.shape) * self._input_bytes[number])
        return np.frombuffer(data, storage_dtype(self._input_dtypes[number]))

    def _output(self, number: int, shapes: _Shapes, target: Place | None) -> Place:
        if target is not None:
            if target.shape != shapes.exact[number]:
                raise PluginError(
                    f"{self._handle.label}: its output {number} of shape {shapes.exact[number]} is bound as "
                    f"{target.shape}"
                )
            return target
        if -1 in shapes.room[number]:
            raise PluginError(f"{self._handle.label}: how large its output {number} may become is not known")
        block = self._blocks.take(volume(shapes.room[number]) * self._output_bytes[number])
        return Place(shapes.room[number], block.address, block)

    def _aliased(
        self, output: int, number: int, given: Sequence[Place], outputs: Sequence[Place], shapes: _Shapes
    ) -> int:
        """The output made a copy of the input, which the plugin then changes in place; its address."""
        taken = volume(given[number].shape) * self._input_bytes[number]
        if taken != volume(shapes.room[output]) * self._output_bytes[output]:
            raise PluginError(
                f"{self._handle.label}: its output {output} lies in the memory of input {number}, so both must have "
                f"the same size; their shapes are {shapes.room[output]} and {given[number].shape}"
            )
        ctypes.memmove(outputs[output].address, given[number].address, taken)
        return outputs[output].address

    def _settle(self, given: Sequence[Place], outputs: Sequence[Place]) -> None:
        """Give outputs the shapes that the plugin has told in its size tensors."""
        if not self._sizes:
            return
        written = {}
        for number in self._sizes:
            data = ctypes.string_at(outputs[number].address, self._output_bytes[number])
            written[number] = int(np.frombuffer(data, storage_dtype(self._signature.dtypes[number]))[0])
        input_shapes = [place.shape for place in given[: self._signature.num_inputs]]
        final = self._signature.output_shapes(input_shapes, self._elements(given), written)
        for number, (place, shape) in enumerate(zip(outputs, final, strict=True)):
            if volume(shape) > volume(place.shape):
                raise PluginError(
                    f"{self._handle.label}: its output {number} became {shape}, larger than the room of {place.shape} "
                    "that follows from its bounds"
                )
            place.shape = shape
