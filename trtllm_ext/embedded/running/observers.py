"""The part of IExecutionContext that lets runs be watched: times of steps, and tensors in the middle of a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from trtllm_ext.embedded.brief import brief
from trtllm_ext.embedded.enums import TensorLocation
from trtllm_ext.embedded.running.context_settings import ContextSettings
from trtllm_ext.embedded.running.shape_state import Refusal
from trtllm_ext.embedded.surface.interfaces import IDebugListener, IProfiler
from trtllm_ext.embedded.tensor_types import ElementType
from trtllm_ext.embedded.types import Dims

if TYPE_CHECKING:
    from trtllm_ext.embedded.running.execution import Execution
    from trtllm_ext.embedded.running.shape_state import Slot
    from trtllm_ext.embedded.running.stepped import SteppedExecution


# On top of the settings, and not beside them: slots cannot come from two bases.
class Observers(ContextSettings):
    """Profiler and debug listener of a context.

    The unit of time is a step of the plan: ONNX Runtime runs the layers of a segment as it likes, and tells no times.
    Debug tensors are computed in every run of an engine that has them; their state decides whether they are shown.
    """

    __slots__ = (
        "_debug_elements",
        "_debugged",
        "_emits_profile",
        "_listener",
        "_profiler",
        "_slots",
        "_times",
    )
    _profiler: IProfiler | None
    _emits_profile: bool
    _times: list[tuple[str, float]]
    _listener: IDebugListener | None
    _debug_elements: Mapping[str, ElementType]
    _debugged: set[str]
    _slots: Mapping[str, Slot]

    def _observe_nothing(self, debug_elements: Mapping[str, ElementType]) -> None:
        self._profiler = None
        self._emits_profile = True
        self._times = []
        self._listener = None
        self._debug_elements = debug_elements
        self._debugged = set()

    # Times

    @property
    def profiler(self) -> IProfiler | None:
        """Told how long each step of a run took; None, the default, for nobody. Other objects raise TypeError."""
        return self._profiler

    @profiler.setter
    def profiler(self, profiler: IProfiler | None) -> None:
        if profiler is not None and not isinstance(profiler, IProfiler):
            raise TypeError(f"a profiler must be an IProfiler, not {profiler!r}")
        self._profiler = profiler

    @property
    def enqueue_emits_profile(self) -> bool:
        """Whether a run tells its times by itself, or `report_to_profiler()` does."""
        return self._emits_profile

    @enqueue_emits_profile.setter
    def enqueue_emits_profile(self, emits: bool) -> None:
        self._emits_profile = bool(emits)

    def report_to_profiler(self) -> bool:
        """Tell the profiler the times of the last run; False, with an error in the log, if there are none to tell."""
        if self._profiler is None or not self._times:
            self._report("report_to_profiler: no run has been made since a profiler was set.")
            return False
        for name, milliseconds in self._times:
            self._profiler.report_layer_time(name, milliseconds)
        return True

    def _run_profiled(self, execution: Execution | SteppedExecution) -> None:
        """Run and tell the times. Raises Refusal if the profiler fails, and what the run raises."""
        self._times = execution.run_timed()
        if not self._emits_profile:
            return
        try:
            self.report_to_profiler()
        except Exception as error:  # the application's code may raise anything
            raise Refusal(f"the run is done, but the profiler failed: {brief(error)}") from error

    # Debug tensors

    def set_debug_listener(self, listener: IDebugListener | None) -> bool:
        """Show debug tensors to `listener` after each run; None for nobody. Other objects raise TypeError."""
        if listener is not None and not isinstance(listener, IDebugListener):
            raise TypeError(f"a debug listener must be an IDebugListener, not {listener!r}")
        self._listener = listener
        return True

    def get_debug_listener(self) -> IDebugListener | None:
        """The listener set."""
        return self._listener

    def set_tensor_debug_state(self, name: str, flag: bool) -> bool:
        """Show a debug tensor or not. False, with an error in the log, if it was not marked in the network."""
        if name not in self._debug_elements:
            self._report(
                f"set_tensor_debug_state: {name!r} is no debug tensor of this engine; mark it in the network."
            )
            return False
        if flag:
            self._debugged.add(name)
        else:
            self._debugged.discard(name)
        return True

    def get_debug_state(self, name: str) -> bool:
        """Whether a debug tensor is shown."""
        return name in self._debugged

    def set_all_tensors_debug_state(self, flag: bool) -> bool:
        """Show all debug tensors, or none."""
        self._debugged = set(self._debug_elements) if flag else set()
        return True

    @property
    def unfused_tensors_debug_state(self) -> bool:
        """Always False: the engine does not know which tensors ONNX Runtime fuses. True logs an error."""
        return False

    @unfused_tensors_debug_state.setter
    def unfused_tensors_debug_state(self, flag: bool) -> None:
        if flag:
            self._report(
                "unfused_tensors_debug_state: the embedded engine does not know which tensors are fused; mark the "
                "tensors to see with mark_debug()."
            )

    def _make_room_for_debugged(self, execution: Execution | SteppedExecution) -> None:
        """Let go of the debug tensors of the last run, whose shapes may have been others."""
        for name in self._debug_elements:
            if name not in self._slots:
                execution.bind_late(name)

    def _show_debugged(self, execution: Execution | SteppedExecution, stream: int) -> None:
        """Call the listener. Raises Refusal if it fails."""
        if self._listener is None:
            return
        for name, element in self._debug_elements.items():
            if name not in self._debugged:
                continue
            slot = self._slots.get(name)
            if slot is not None and slot.shape is not None and _is_at_hand(slot):
                shape, address = slot.shape, slot.address
            else:
                shape, address, _ = execution.late_output(name)
            try:
                self._listener.process_debug_tensor(
                    address, TensorLocation.HOST, element.dtype, Dims(shape), name, stream
                )
            except Exception as error:  # the application's code may raise anything
                raise Refusal(f"the debug listener failed for {name!r}: {brief(error)}") from error


def _is_at_hand(slot: Slot) -> bool:
    # An empty input may have no address.
    return slot.record.is_input or (slot.address != 0 and slot.allocator is None)
