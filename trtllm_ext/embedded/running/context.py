"""Execution contexts: one run of an engine at a time, over memory that the caller owns."""

import ctypes
from collections.abc import Mapping, Sequence
from operator import index
from typing import TYPE_CHECKING, Any, Literal

from trtllm_ext.embedded.brief import brief
from trtllm_ext.embedded.logger import ILogger
from trtllm_ext.embedded.running.execution import Execution
from trtllm_ext.embedded.running.loading import LoadedPlan, Shape
from trtllm_ext.embedded.running.output_allocator import IOutputAllocator
from trtllm_ext.embedded.running.ranks import Ranks
from trtllm_ext.embedded.running.settings import IRuntimeConfig
from trtllm_ext.embedded.running.shape_state import Refusal, ShapeState, Slot
from trtllm_ext.embedded.running.stepped import SteppedExecution, execution_of
from trtllm_ext.embedded.surface.lifetime import Lifetime
from trtllm_ext.embedded.types import Dims, index_of, volume
from trtllm_ext.embedded.unsupported import Unsupported
from trtllm_ext.errors import RankError

if TYPE_CHECKING:
    from trtllm_ext.embedded.running.engine import ICudaEngine

# What an output allocator is asked for.
_ALIGNMENT = 64
# Below what addresses are; of more, foreign functions take the low bits.
_NO_ADDRESS = 1 << 64


class IExecutionContext(Ranks, Lifetime):
    """Runs an engine. Made by `ICudaEngine.create_execution_context()`.

    Addresses are those of host memory. A call that cannot be obeyed logs an error and returns False (or None, or
    invalid dims); nothing is run then. A context is used by one thread at a time, and different contexts of an
    engine by any number.
    """

    __slots__ = (
        "__weakref__",
        "_engine",
        "_is_ready",
        "_is_running",
        "_loaded",
        "_shapes",
    )
    temporary_allocator = Unsupported()

    def __init__(
        self,
        engine: "ICudaEngine",
        loaded: LoadedPlan,
        logger: ILogger,
        config: IRuntimeConfig | None = None,
    ) -> None:
        self._report_to(logger)
        self._set_defaults(config or IRuntimeConfig())
        self._engine = engine
        self._loaded = loaded
        self._observe_nothing(loaded.debug_elements)
        self._be_alone(loaded.steps)
        self._slots = {name: Slot(record, loaded.elements[name]) for name, record in loaded.tensors.items()}
        self._shapes = ShapeState(loaded, self._slots)
        self._execution = execution_of(loaded)
        # Nothing has changed since the last run, so the bindings are right as they are.
        self._is_ready = False
        self._is_running = False

    def _renew(self, execution: Execution | SteppedExecution) -> None:
        """Run this from the next run on."""
        # Nothing else changes here: a refit may come from another thread than the runs.
        if self._execution is not None:
            self._hand_communicator(execution)
            self._execution = execution

    def __del__(self) -> None:
        self._execution = None
        self._is_ready = False

    @property
    def engine(self) -> "ICudaEngine":
        """The engine that this context runs."""
        return self._engine

    # Shapes

    @property
    def active_optimization_profile(self) -> int:
        """Index of the profile in use."""
        return self._shapes.profile_index

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        """Use another profile; shapes of dynamic inputs must be set again if it is a different one."""
        profile_index = index_of(profile_index, "profile_index")
        try:
            if self._shapes.select_profile(profile_index):
                self._is_ready = False
        except Refusal as refusal:
            return self._refuse("set_optimization_profile_async", refusal)
        return True

    def set_input_shape(self, name: str, shape: Sequence[int] | Dims) -> bool:
        """Set the shape of an input; refused outside the range of the active profile."""
        if name not in self._shapes.inputs:
            return self._unknown("set_input_shape", name, self._shapes.inputs)
        try:
            if self._shapes.set_shape(name, shape):
                self._is_ready = False
        except Refusal as refusal:
            return self._refuse("set_input_shape", refusal)
        return True

    def get_tensor_shape(self, name: str) -> Dims:
        """The shape of an input or output, with -1 where it cannot be known yet; invalid dims for unknown names."""
        slot = self._slots.get(name)
        if slot is None:
            self._unknown("get_tensor_shape", name, self._slots)
            return Dims._invalid()
        if not slot.record.is_input and (self._shapes.missing() or not self._infer("get_tensor_shape")):
            return Dims(slot.record.shape)
        return Dims(slot.record.shape if slot.shape is None else slot.shape)

    def get_tensor_strides(self, name: str) -> Dims:
        """Strides in elements of a dense tensor of the current shape; -1 where they cannot be known yet."""
        if name not in self._slots:
            self._unknown("get_tensor_strides", name, self._slots)
            return Dims._invalid()
        shape = self.get_tensor_shape(name)
        strides = [1] * len(shape)
        for axis in range(len(shape) - 2, -1, -1):
            length, stride = shape[axis + 1], strides[axis + 1]
            strides[axis] = -1 if -1 in (length, stride) else length * stride
        return Dims(strides)

    def infer_shapes(self) -> list[str]:
        """Names of inputs whose shape, or address of a shape input, is still to be set; empty if outputs are known.

        Raises RuntimeError if shapes are set but do not fit each other.
        """
        missing = self._shapes.missing()
        if not missing and not self._infer("infer_shapes"):
            raise RuntimeError(
                "infer_shapes: the shapes of the inputs do not fit each other; the log has the reason."
            )
        return missing

    @property
    def all_binding_shapes_specified(self) -> bool:
        """Whether the shape of every input is set."""
        return all(slot.shape is not None for slot in self._shapes.inputs.values())

    @property
    def all_shape_inputs_specified(self) -> bool:
        """Whether the value of every shape input can be read."""
        return all(slot.address for slot in self._shapes.shape_inputs.values())

    def get_max_output_size(self, name: str) -> int:
        """Bytes of an output at the largest shapes of the active profile; -1 if it cannot be told."""
        slot = self._shapes.outputs.get(name)
        if slot is None:
            self._unknown("get_max_output_size", name, self._shapes.outputs)
            return -1
        shape = self._shapes.largest(name)
        return -1 if shape is None or -1 in shape else volume(shape) * slot.item_bytes

    # Memory

    def set_tensor_address(self, name: str, memory: int) -> bool:
        """Set where an input or output lies. The address is one of host memory, aligned to the type's elements."""
        slot = self._slots.get(name)
        if slot is None:
            return self._unknown("set_tensor_address", name, self._slots)
        if memory == slot.address:
            return True
        try:
            address = index(memory)
        except TypeError:
            address = -1
        if not 0 <= address < _NO_ADDRESS:
            return self._refuse("set_tensor_address", f"{memory!r} given for {name!r} is not an address.")
        if address % slot.item_bytes:
            return self._refuse(
                "set_tensor_address",
                f"address {address:#x} of {name!r} is not aligned to its elements of {slot.item_bytes} bytes "
                f"({slot.element.name}).",
            )
        slot.address, slot.is_bound = address, False
        self._is_ready = False
        return True

    def get_tensor_address(self, name: str) -> int:
        """The address set for an input or output, 0 if none is."""
        slot = self._slots.get(name)
        if slot is None:
            self._unknown("get_tensor_address", name, self._slots)
            return 0
        return slot.address

    def set_output_allocator(self, name: str, output_allocator: IOutputAllocator | None) -> bool:
        """Let `output_allocator` give memory to an output at every run; None goes back to the address set."""
        slot = self._shapes.outputs.get(name)
        if slot is None:
            return self._unknown("set_output_allocator", name, self._shapes.outputs)
        slot.allocator, slot.is_bound = output_allocator, False
        self._is_ready = False
        return True

    def get_output_allocator(self, name: str) -> IOutputAllocator | None:
        """The allocator set for an output, or None."""
        slot = self._shapes.outputs.get(name)
        if slot is None:
            self._unknown("get_output_allocator", name, self._shapes.outputs)
            return None
        return slot.allocator

    # Runs

    def execute_async_v3(self, stream_handle: int) -> bool:
        """Run the engine; it has finished when the call returns, whatever the stream."""
        execution = self._execution
        if execution is None or self._engine._loaded is None:
            return self._refuse("execute_async_v3", "the engine or the context was deleted.")
        if self._is_running:
            return self._refuse(
                "execute_async_v3",
                "a run of this context has not ended yet: one of another thread, or the one that is calling this "
                "code. Make a context for each.",
            )
        self._is_running = True
        self._rank_error = None
        try:
            if execution.is_unbound or not self._is_ready:
                self._prepare(execution, stream_handle)
            if self._debug_elements:
                self._make_room_for_debugged(execution)
            execution.stream = stream_handle
            try:
                if self._profiler is None:
                    execution.run()
                else:
                    self._run_profiled(execution)
            except Refusal:
                raise
            except RankError as error:
                self._rank_error = error
                raise Refusal(str(error)) from error
            except Exception as error:  # ONNX Runtime's exceptions have no common base
                raise Refusal(f"the run failed: {brief(error)}") from error
            if self._shapes.late:
                self._deliver(execution, stream_handle)
            if self._debugged:
                self._show_debugged(execution, stream_handle)
        except Refusal as refusal:
            return self._refuse("execute_async_v3", refusal)
        finally:
            self._is_running = False
        return True

    def execute_v2(self, bindings: Sequence[int]) -> bool:
        """Run the engine with the addresses of all inputs and outputs, in the order of the engine."""
        if len(bindings) != len(self._slots):
            return self._refuse(
                "execute_v2", f"{len(bindings)} addresses were given for {len(self._slots)} tensors."
            )
        are_set = [
            self.set_tensor_address(name, address)
            for name, address in zip(self._slots, bindings, strict=True)
        ]
        return all(are_set) and self.execute_async_v3(0)

    # Inside

    def _infer(self, method: str) -> bool:
        try:
            if self._shapes.infer():
                self._is_ready = False
        except Refusal as refusal:
            return self._refuse(method, refusal)
        return True

    def _prepare(self, execution: Execution | SteppedExecution, stream: int) -> None:
        """Make the bindings right for a run."""
        lacking = self._lacking()
        if lacking is not None:
            raise Refusal(lacking)
        shapes = self._shapes
        missing = shapes.missing()
        if missing:
            raise Refusal(
                f"shape or value of {', '.join(map(repr, missing))} is not set; set it before a run."
            )
        shapes.infer()
        for name, slot in self._slots.items():
            if execution.is_unbound or not slot.is_bound:
                self._bind(execution, name, slot, stream)
        execution.is_unbound = False
        # Allocators are asked at every run, and values of shape inputs may have changed in place.
        self._is_ready = shapes.is_inferred and all(slot.is_bound for slot in shapes.outputs.values())

    def _bind(self, execution: Execution | SteppedExecution, name: str, slot: Slot, stream: int) -> None:
        shape, address = slot.shape or (), slot.address
        if name in self._shapes.late:
            if slot.allocator is None:
                raise Refusal(f"the size of output {name!r} depends on data; set an output allocator for it.")
            execution.bind_late(name)
            return
        if slot.allocator is not None:
            address = _allocate(name, slot, shape, volume(shape) * slot.item_bytes, stream)
        if not address and 0 not in shape:
            raise Refusal(f"the address of {name!r} is not set; use set_tensor_address().")
        execution.bind(name, shape, address)
        slot.is_bound = slot.allocator is None

    def _deliver(self, execution: Execution | SteppedExecution, stream: int) -> None:
        """Copy outputs of data-dependent shape to where their allocators want them."""
        for name in self._shapes.late:
            shape, source, nbytes = execution.late_output(name)
            ctypes.memmove(_allocate(name, self._slots[name], shape, nbytes, stream), source, nbytes)

    def _refuse(self, method: str, reason: str | Refusal) -> Literal[False]:
        self._report(f"{method}: {reason}")
        return False

    def _unknown(self, method: str, name: object, known: Mapping[str, Any]) -> Literal[False]:
        return self._refuse(
            method, f"there is no {name!r}; there are {', '.join(map(repr, known)) or 'none'}."
        )


def _allocate(name: str, slot: Slot, shape: Shape, nbytes: int, stream: int) -> int:
    """Memory for an output from its allocator, which is told the shape."""
    allocator = slot.allocator
    if allocator is None:
        raise Refusal(f"output {name!r} has no output allocator.")
    try:
        address = index(
            allocator.reallocate_output_async(name, slot.address, max(nbytes, 1), _ALIGNMENT, stream) or 0
        )
        if 0 < address < _NO_ADDRESS:
            allocator.notify_shape(name, Dims(shape))
    except Exception as error:  # the application's code may raise anything
        raise Refusal(f"the output allocator of {name!r} failed: {brief(error)}") from error
    if not 0 < address < _NO_ADDRESS:
        raise Refusal(f"the output allocator of {name!r} gave no memory for {nbytes} bytes.")
    return address
