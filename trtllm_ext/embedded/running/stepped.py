"""Running plans with steps that ONNX Runtime does not run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING

from trtllm_ext.embedded.plan import CollectiveStep, OnnxStep, PluginRecord, SingleStep
from trtllm_ext.embedded.plan.steps import own_steps
from trtllm_ext.embedded.plugins.asking import PluginError, PluginHandle
from trtllm_ext.embedded.running.collective_call import CollectiveCall, Scratch
from trtllm_ext.embedded.running.execution import NOWHERE, Execution
from trtllm_ext.embedded.running.memory import Block, Blocks
from trtllm_ext.embedded.running.place import Place
from trtllm_ext.embedded.running.plugin_call import PluginCall
from trtllm_ext.embedded.running.sessions import SegmentSession
from trtllm_ext.embedded.running.value_types import types_of_values
from trtllm_ext.embedded.tensor_types import ElementType
from trtllm_ext.embedded.types import volume
from trtllm_ext.errors import EngineError
from trtllm_ext.parallel import Communicator

if TYPE_CHECKING:
    import onnxruntime

    from trtllm_ext.embedded.running.loading import LoadedPlan

# Of an output: what a binding shows after a run that failed.
_UNKNOWN = ((), 0)


def execution_of(loaded: LoadedPlan) -> Execution | SteppedExecution:
    """What runs the steps of a plan for one context.

    Raises EngineError if a plugin cannot be attached to the context.
    """
    onnx_types = {name: element.onnx_type for name, element in loaded.elements.items()}
    if all(isinstance(step, OnnxStep) for step in loaded.steps):
        steps = [step for step in loaded.steps if isinstance(step, OnnxStep)]
        return Execution(steps, loaded.sessions, onnx_types)
    types = types_of_values(loaded.steps, loaded.sessions, loaded.elements)
    seen = {*loaded.tensors, *loaded.debug_elements}
    try:
        return SteppedExecution(loaded.steps, loaded.sessions, loaded.plugins, types, seen)
    except PluginError as error:
        raise EngineError(str(error)) from error


class SteppedExecution:
    """The steps of an engine with plugins or collectives, on the memory of one context; an `Execution` for such plans.

    Every value between two steps is memory at an address, from the step that makes it to the end of the last step
    that takes it.
    """

    def __init__(
        self,
        steps: Sequence[SingleStep],
        sessions: Sequence[SegmentSession],
        plugins: Sequence[tuple[PluginRecord, PluginHandle]],
        types: Mapping[str, ElementType],
        seen: Set[str],
    ) -> None:
        """types: of all values by name, those between steps too. seen: values that others see or own.

        Raises PluginError if a plugin cannot be attached.
        """
        self._types = types
        self._blocks = Blocks()
        self._made = {name for step in steps for name in step.outputs}
        last = {name: number for number, step in enumerate(steps) for name in (*step.outputs, *step.inputs)}
        onnx_types = {name: element.onnx_type for name, element in types.items()}
        own, scratch = own_steps(steps), Scratch()
        self._calls: list[_OnnxCall | PluginCall | CollectiveCall] = []
        for number, step in enumerate(steps):
            if isinstance(step, OnnxStep):
                self._calls.append(_OnnxCall(step, own[step.segment], sessions[step.segment], onnx_types))
            elif isinstance(step, CollectiveStep):
                takes_over = last[step.input] == number and step.input not in seen
                self._calls.append(CollectiveCall(step, self._blocks, scratch, takes_over=takes_over))
            else:
                self._calls.append(PluginCall(step, *plugins[step.plugin], self._blocks))
        self._dropped: list[list[str]] = [[] for _ in steps]
        for name, number in last.items():
            self._dropped[number].append(name)
        self._inputs: dict[str, Place] = {}
        self._targets: dict[str, Place] = {}
        # Outputs whose size only the run shows, with what the last one made.
        self._late: dict[str, Place | None] = {}
        # Contexts must bind everything first.
        self.is_unbound = True
        self.stream = 0

    def set_communicator(self, communicator: Communicator) -> None:
        """Do collectives over this from the next run on."""
        for call in self._calls:
            if isinstance(call, CollectiveCall):
                call.communicator = communicator

    def bind(self, name: str, shape: tuple[int, ...], address: int) -> None:
        """Take or leave the input or output `name`, of exactly this shape, at `address` (0 if it has no elements)."""
        place = Place(shape, address or NOWHERE.ctypes.data)
        if name in self._made:
            self._targets[name] = place
            self._late.pop(name, None)
        else:
            self._inputs[name] = place

    def bind_late(self, name: str) -> None:
        """Leave the output `name`, whose shape depends on data, in memory of the engine."""
        self._targets.pop(name, None)
        self._late[name] = None

    def run(self) -> None:
        """Run all steps. Raises what ONNX Runtime raises, PluginError, and RankError of a collective."""
        values = self._begin()
        for call, dropped in zip(self._calls, self._dropped, strict=True):
            call.run(values, self._targets, self.stream)
            self._drop(values, dropped)

    def run_timed(self) -> list[tuple[str, float]]:
        """As `run()`; returns the name of each step and the milliseconds that it took."""
        times = []
        values = self._begin()
        for call, dropped in zip(self._calls, self._dropped, strict=True):
            begin = time.perf_counter()
            call.run(values, self._targets, self.stream)
            times.append((call.name, (time.perf_counter() - begin) * 1e3))
            self._drop(values, dropped)
        return times

    def _begin(self) -> dict[str, Place]:
        """The values that are there before the first step."""
        for name, place in self._late.items():
            self._give_back(place)
            self._late[name] = None
        return dict(self._inputs)

    def _drop(self, values: dict[str, Place], dropped: Sequence[str]) -> None:
        """Let go of values that nothing reads any more."""
        for name in dropped:
            place = values.pop(name)
            if name in self._late:
                self._late[name] = place
            else:
                self._give_back(place)

    def late_output(self, name: str) -> tuple[tuple[int, ...], int, int]:
        """Shape, address and bytes of an output bound by `bind_late()`, valid until the next run."""
        place = self._late[name]
        assert place is not None  # for the type checker: asked after a run
        return place.shape, place.address, volume(place.shape) * self._types[name].storage.itemsize

    def _give_back(self, place: Place | None) -> None:
        if place is not None and isinstance(place.owner, Block):
            self._blocks.give(place.owner)


class _OnnxCall:
    """One ONNX step; its binding shows what is bound until another place is given.

    own: the step that has the names that the segment itself has for the values.
    """

    def __init__(
        self, step: OnnxStep, own: OnnxStep, segment: SegmentSession, onnx_types: Mapping[str, int]
    ) -> None:
        self.step = step
        self.name = f"segment {step.segment}"
        self._binding = segment.session.io_binding()
        # After a refit nothing else may keep the weights that the bare session points to.
        self._segment = segment
        self._inputs = [
            (name, own_name, onnx_types[name]) for name, own_name in zip(step.inputs, own.inputs, strict=True)
        ]
        self._outputs = [
            (name, own_name, onnx_types[name])
            for name, own_name in zip(step.outputs, own.outputs, strict=True)
        ]
        self._shown: dict[str, tuple[tuple[int, ...], int] | None] = {}

    def run(self, values: dict[str, Place], targets: Mapping[str, Place], stream: int) -> None:
        """Compute the outputs and put them among `values`; those without a target get memory of ONNX Runtime."""
        for name, own_name, onnx_type in self._inputs:
            self._show(own_name, onnx_type, values[name], self._binding.bind_input)
        inside = []
        for index, (name, own_name, onnx_type) in enumerate(self._outputs):
            target = targets.get(name)
            if target is None:
                inside.append((index, name, own_name))
                if self._shown.get(own_name, _UNKNOWN) is not None:
                    self._binding.bind_output(own_name, "cpu")
                # Until the run has ended well.
                self._shown[own_name] = _UNKNOWN
            else:
                self._show(own_name, onnx_type, target, self._binding.bind_output)
                values[name] = target
        self._segment.session.run_with_iobinding(self._binding)
        if inside:
            made = self._binding.get_outputs()
            for index, name, own_name in inside:
                value = made[index]
                values[name] = Place(tuple(value.shape()), value.data_ptr() or NOWHERE.ctypes.data, value)
                # Lets go of what the run made, which the place keeps.
                self._binding.bind_output(own_name, "cpu")
                self._shown[own_name] = None

    def _show(self, own_name: str, onnx_type: int, place: Place, bind: onnxruntime.IOBinding) -> None:
        key = (place.shape, place.address)
        if self._shown.get(own_name) != key:
            bind(own_name, "cpu", 0, onnx_type, place.shape, place.address)
            self._shown[own_name] = key
