"""Running the steps of a plan over bound memory."""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from trtllm_ext.embedded.plan import OnnxStep
from trtllm_ext.embedded.plan.steps import own_steps
from trtllm_ext.embedded.running.sessions import SegmentSession

if TYPE_CHECKING:
    import onnxruntime

# Where tensors without elements lie: ONNX Runtime and plugins are given no null pointers.
NOWHERE = np.zeros(64, np.uint8)


class Execution:
    """The steps of an engine, bound to the memory of one context; bindings stay from run to run.

    Values that pass from one step to another live in memory of ONNX Runtime, from the step that makes them to the
    end of the last step that takes them.
    """

    def __init__(
        self,
        steps: Sequence[OnnxStep],
        sessions: Sequence[SegmentSession],
        onnx_types: Mapping[str, int],
    ) -> None:
        """onnx_types: the engine's inputs and outputs with the number that ONNX gives their type."""
        self._onnx_types = onnx_types
        self._calls = [
            (sessions[step.segment].session, sessions[step.segment].session.io_binding()) for step in steps
        ]
        # After a refit nothing else may keep the weights that the bare sessions point to.
        self._kept = [sessions[step.segment] for step in steps]
        self._segments = [step.segment for step in steps]
        self._readers: dict[str, list[int]] = {}
        self._makers: dict[str, tuple[int, int]] = {}
        own = own_steps(steps)
        # What the segment of a step calls the values.
        self._own_inputs = [_renamed(step.inputs, own[step.segment].inputs) for step in steps]
        self._own_outputs = [_renamed(step.outputs, own[step.segment].outputs) for step in steps]
        for number, step in enumerate(steps):
            for name in step.inputs:
                self._readers.setdefault(name, []).append(number)
            for index, name in enumerate(step.outputs):
                self._makers[name] = (number, index)
                self._bind_output(number, name, "cpu")
        self._passed = [
            [name for name in step.outputs if name in self._readers and name not in onnx_types]
            for step in steps
        ]
        self._dropped: list[list[str]] = [[] for _ in steps]
        for names in self._passed:
            for name in names:
                self._dropped[self._readers[name][-1]].append(name)
        self._is_single = len(steps) == 1
        # Contexts must bind everything first.
        self.is_unbound = True
        # Of the next run; nothing here waits for it.
        self.stream = 0
        # Outputs whose size only the run shows, and which later steps take.
        self._late: set[str] = set()

    def bind(self, name: str, shape: tuple[int, ...], address: int) -> None:
        """Take or leave the input or output `name`, of exactly this shape, at `address`.

        The address of a tensor without elements may be 0.
        """
        onnx_type = self._onnx_types[name]
        pointer = address or NOWHERE.ctypes.data
        if name in self._makers:
            number, _ = self._makers[name]
            self._bind_output(number, name, "cpu", 0, onnx_type, shape, pointer)
            self._late.discard(name)
        for number in self._readers.get(name, ()):
            for own_name in self._own_inputs[number][name]:
                self._calls[number][1].bind_input(own_name, "cpu", 0, onnx_type, shape, pointer)

    def bind_late(self, name: str) -> None:
        """Leave the output `name`, whose shape depends on data, in memory of ONNX Runtime."""
        number, _ = self._makers[name]
        self._bind_output(number, name, "cpu")
        if name in self._readers:
            self._late.add(name)

    def run(self) -> None:
        """Run all steps. Raises what ONNX Runtime raises."""
        if self._is_single:
            session, binding = self._calls[0]
            session.run_with_iobinding(binding)
            return
        for number, (session, binding) in enumerate(self._calls):
            session.run_with_iobinding(binding)
            self._hand_on(number, binding)

    def run_timed(self) -> list[tuple[str, float]]:
        """As `run()`; returns the name of each step and the milliseconds that it took."""
        times = []
        for number, (session, binding) in enumerate(self._calls):
            begin = time.perf_counter()
            session.run_with_iobinding(binding)
            times.append((f"segment {self._segments[number]}", (time.perf_counter() - begin) * 1e3))
            self._hand_on(number, binding)
        return times

    def _hand_on(self, number: int, binding: "onnxruntime.IOBinding") -> None:
        late = [name for name in self._late if self._makers[name][0] == number]
        if self._passed[number] or late:
            values = binding.get_outputs()
            for name in (*self._passed[number], *late):
                for reader in self._readers[name]:
                    for own_name in self._own_inputs[reader][name]:
                        self._calls[reader][1].bind_ortvalue_input(own_name, values[self._makers[name][1]])
        for name in self._dropped[number]:
            maker, _ = self._makers[name]
            self._bind_output(maker, name, "cpu")

    def _bind_output(self, number: int, name: str, *where: Any) -> None:
        for own_name in self._own_outputs[number][name]:
            self._calls[number][1].bind_output(own_name, *where)

    def late_output(self, name: str) -> tuple[tuple[int, ...], int, int]:
        """Shape, address and bytes of an output bound by `bind_late()`, valid until the next run."""
        number, index = self._makers[name]
        value = self._calls[number][1].get_outputs()[index]
        return tuple(value.shape()), value.data_ptr(), value.tensor_size_in_bytes()


def _renamed(names: Sequence[str], own_names: Sequence[str]) -> dict[str, list[str]]:
    """By name of a value the places of a segment that it takes."""
    places: dict[str, list[str]] = {}
    for name, own_name in zip(names, own_names, strict=True):
        places.setdefault(name, []).append(own_name)
    return places
