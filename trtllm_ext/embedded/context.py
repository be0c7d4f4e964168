"""Execution contexts: one run of an engine at a time, over memory that the caller owns."""

import ctypes
from collections.abc import Mapping, Sequence
from operator import index
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from trtllm_ext.embedded.enums import ProfilingVerbosity
from trtllm_ext.embedded.execution import Execution
from trtllm_ext.embedded.loading import LoadedPlan, Shape
from trtllm_ext.embedded.logger import ILogger
from trtllm_ext.embedded.output_allocator import IOutputAllocator
from trtllm_ext.embedded.plan import ProfileRecord, TensorRecord
from trtllm_ext.embedded.sessions import brief
from trtllm_ext.embedded.tensor_types import ElementType
from trtllm_ext.embedded.types import Dims, volume

if TYPE_CHECKING:
    from trtllm_ext.embedded.engine import ICudaEngine

# What an output allocator is asked for.
_ALIGNMENT = 64


class _Slot:
    """An input or output of a context: its shape, its memory, and whether the binding shows both."""

    __slots__ = ("address", "allocator", "element", "is_bound", "item_bytes", "record", "shape")

    def __init__(self, record: TensorRecord, element: ElementType) -> None:
        self.record = record
        self.element = element
        self.item_bytes = int(element.storage.itemsize)
        self.shape: Shape | None = record.shape if record.is_input and -1 not in record.shape else None
        self.address = 0
        self.allocator: IOutputAllocator | None = None
        self.is_bound = False


class IExecutionContext:
    """Runs an engine. Made by `ICudaEngine.create_execution_context()`.

    Addresses are those of host memory. A call that cannot be obeyed logs an error and returns False (or None, or
    invalid dims); nothing is run then. A context is used by one thread at a time, and different contexts of an
    engine by any number.
    """

    def __init__(self, engine: "ICudaEngine", loaded: LoadedPlan, logger: ILogger) -> None:
        self._engine = engine
        self._loaded = loaded
        self._logger = logger
        self._slots = {name: _Slot(record, loaded.elements[name]) for name, record in loaded.tensors.items()}
        self._inputs = {name: slot for name, slot in self._slots.items() if slot.record.is_input}
        self._outputs = {name: slot for name, slot in self._slots.items() if not slot.record.is_input}
        self._shape_inputs = {name: slot for name, slot in self._inputs.items() if slot.record.is_shape_input}
        self._execution: Execution | None = Execution(
            loaded.steps,
            loaded.sessions,
            {name: slot.element.onnx_type for name, slot in self._slots.items()},
        )
        self._profile_index = 0
        # No shape has changed since those of the outputs were inferred.
        self._is_inferred = False
        # Nothing has changed since the last run, so the bindings are right as they are.
        self._is_ready = False
        self._late: list[str] = []
        self.name = ""
        self.debug_sync = False
        self.nvtx_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
        self.persistent_cache_limit = 0

    def __del__(self) -> None:
        self._execution = None
        self._is_ready = False

    @property
    def engine(self) -> "ICudaEngine":
        """The engine that this context runs."""
        return self._engine

    @property
    def active_optimization_profile(self) -> int:
        """Index of the profile in use."""
        return self._profile_index

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        """Use another profile; shapes of dynamic inputs must be set again if it is a different one."""
        profiles = self._loaded.plan.header.profiles
        if not 0 <= profile_index < len(profiles):
            return self._refuse(
                "set_optimization_profile_async",
                f"there is no profile {profile_index}; the engine has profiles 0 .. {len(profiles) - 1}.",
            )
        if profile_index != self._profile_index:
            self._profile_index = profile_index
            self._is_inferred = self._is_ready = False
            for slot in self._inputs.values():
                if -1 in slot.record.shape:
                    slot.shape, slot.is_bound = None, False
        return True

    # Shapes

    def set_input_shape(self, name: str, shape: Sequence[int] | Dims) -> bool:
        """Set the shape of an input; refused outside the range of the active profile."""
        slot = self._inputs.get(name)
        if slot is None:
            return self._unknown("set_input_shape", name, self._inputs)
        try:
            exact = tuple([length.__index__() for length in shape])
        except (AttributeError, TypeError, ValueError):
            return self._refuse("set_input_shape", f"{shape!r} given for {name!r} is not a shape.")
        if exact == slot.shape:
            return True
        low, _, high = self._profile.shapes[name]
        if len(exact) != len(low):
            return self._refuse(
                "set_input_shape",
                f"shape {exact} of {name!r} has {len(exact)} dimensions; {slot.record.shape} needs {len(low)}.",
            )
        for length, least, most in zip(exact, low, high, strict=True):
            if not least <= length <= most:
                return self._refuse(
                    "set_input_shape",
                    f"shape {exact} of {name!r} is outside of what profile {self._profile_index} allows: "
                    f"{_range_text(low, high)}.",
                )
        slot.shape, slot.is_bound = exact, False
        self._is_inferred = self._is_ready = False
        return True

    def get_tensor_shape(self, name: str) -> Dims:
        """The shape of an input or output, with -1 where it cannot be known yet; invalid dims for unknown names."""
        slot = self._slots.get(name)
        if slot is None:
            self._unknown("get_tensor_shape", name, self._slots)
            return Dims._invalid()
        if slot.record.is_input:
            return Dims(slot.record.shape if slot.shape is None else slot.shape)
        if not self._is_inferred and (self._missing() or not self._infer("get_tensor_shape")):
            return Dims(slot.record.shape)
        return Dims(slot.shape or ())

    def get_tensor_strides(self, name: str) -> Dims:
        """Strides in elements of a dense tensor of the current shape; -1 where they cannot be known yet."""
        shape = self.get_tensor_shape(name)
        if shape == Dims._invalid():
            return shape
        strides = [1] * len(shape)
        for axis in range(len(shape) - 2, -1, -1):
            length, stride = shape[axis + 1], strides[axis + 1]
            strides[axis] = -1 if -1 in (length, stride) else length * stride
        return Dims(strides)

    def infer_shapes(self) -> list[str]:
        """Names of inputs whose shape, or address of a shape input, is still to be set; empty if outputs are known.

        Raises RuntimeError if shapes are set but do not fit each other.
        """
        missing = self._missing()
        if not missing and not self._infer("infer_shapes"):
            raise RuntimeError(
                "infer_shapes: the shapes of the inputs do not fit each other; the log has the reason."
            )
        return missing

    @property
    def all_binding_shapes_specified(self) -> bool:
        """Whether the shape of every input is set."""
        return all(slot.shape is not None for slot in self._inputs.values())

    @property
    def all_shape_inputs_specified(self) -> bool:
        """Whether the value of every shape input can be read."""
        return all(slot.address for slot in self._shape_inputs.values())

    def get_max_output_size(self, name: str) -> int:
        """Bytes of an output at the largest shapes of the active profile; -1 if it cannot be told."""
        slot = self._outputs.get(name)
        if slot is None:
            self._unknown("get_max_output_size", name, self._outputs)
            return -1
        values = {
            shape_input: np.array(self._profile.values[shape_input][2], owner.element.storage).reshape(
                owner.record.shape
            )
            for shape_input, owner in self._shape_inputs.items()
        }
        try:
            shapes = self._loaded.output_shapes(
                {key: self._profile.shapes[key][2] for key in self._inputs}, values
            )
        except ValueError:
            return -1
        return -1 if -1 in shapes[name] else volume(shapes[name]) * slot.item_bytes

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
        if address < 0:
            return self._refuse("set_tensor_address", f"{memory!r} given for {name!r} is not an address.")
        if address % slot.item_bytes:
            return self._refuse(
                "set_tensor_address",
                f"address {address:#x} of {name!r} is not aligned to its elements of "
                f"{slot.item_bytes} bytes ({slot.element.name}).",
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
        slot = self._outputs.get(name)
        if slot is None:
            return self._unknown("set_output_allocator", name, self._outputs)
        slot.allocator, slot.is_bound = output_allocator, False
        self._is_ready = False
        return True

    def get_output_allocator(self, name: str) -> IOutputAllocator | None:
        """The allocator set for an output, or None."""
        slot = self._outputs.get(name)
        if slot is None:
            self._unknown("get_output_allocator", name, self._outputs)
            return None
        return slot.allocator

    # Runs

    def execute_async_v3(self, stream_handle: int) -> bool:
        """Run the engine; it has finished when the call returns, whatever the stream."""
        if not self._is_ready and not self._prepare(stream_handle):
            return False
        if self._engine._loaded is None or self._execution is None:
            return self._refuse("execute_async_v3", "the engine or the context was deleted.")
        try:
            self._execution.run()
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            return self._refuse("execute_async_v3", f"the run failed: {brief(error)}")
        return not self._late or self._deliver(stream_handle)

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

    def set_input_consumed_event(self, event: int) -> bool:
        """Keep an event; inputs are consumed when a run returns, so nothing waits for it."""
        self._input_consumed_event = event
        return True

    # Inside

    @property
    def _profile(self) -> ProfileRecord:
        return self._loaded.plan.header.profiles[self._profile_index]

    def _missing(self) -> list[str]:
        """Inputs without which shapes cannot be inferred."""
        missing = [name for name, slot in self._inputs.items() if slot.shape is None]
        for name, slot in self._shape_inputs.items():
            low, _, high = self._profile.values[name]
            if not slot.address and low != high and name not in missing:
                missing.append(name)
        return missing

    def _infer(self, method: str) -> bool:
        """Bring the shapes of outputs up to date; nothing may be missing."""
        shapes = {name: slot.shape for name, slot in self._inputs.items() if slot.shape is not None}
        values = self._values(method)
        if values is None:
            return False
        try:
            found = self._loaded.output_shapes(shapes, values)
        except ValueError as error:
            return self._refuse(method, f"the shapes of the inputs do not fit each other: {error}")
        for name, slot in self._outputs.items():
            if slot.shape != found[name]:
                slot.shape, slot.is_bound = found[name], False
                self._is_ready = False
        self._late = [name for name, shape in found.items() if -1 in shape]
        # Values of shape inputs may change in place, unseen.
        self._is_inferred = not self._shape_inputs
        return True

    def _values(self, method: str) -> Mapping[str, np.ndarray[Any, Any]] | None:
        """Values of the shape inputs, from memory, or from a profile that leaves no choice; None if refused."""
        values = {}
        for name, slot in self._shape_inputs.items():
            low, _, high = self._profile.values[name]
            shape = slot.shape or ()
            if slot.address:
                data = ctypes.string_at(slot.address, volume(shape) * slot.item_bytes)
                values[name] = np.frombuffer(data, slot.element.storage).reshape(shape)
            else:
                values[name] = np.array(low, slot.element.storage).reshape(shape)
            given = tuple(values[name].reshape(-1).tolist())
            if not all(a <= b <= c for a, b, c in zip(low, given, high, strict=True)):
                self._refuse(
                    method,
                    f"value {given} of {name!r} is outside of what profile {self._profile_index} allows: "
                    f"{_range_text(low, high)}.",
                )
                return None
        return values

    def _prepare(self, stream: int) -> bool:
        """Make the bindings right for a run."""
        execution = self._execution
        if execution is None:
            return self._refuse("execute_async_v3", "the context was deleted.")
        if not self._is_inferred:
            missing = self._missing()
            if missing:
                return self._refuse(
                    "execute_async_v3",
                    f"shape or value of {', '.join(map(repr, missing))} is not set; set it before a run.",
                )
            if not self._infer("execute_async_v3"):
                return False
        for name, slot in self._slots.items():
            if not slot.is_bound and not self._bind(execution, name, slot, stream):
                return False
        # Allocators are asked at every run, and values of shape inputs may have changed in place.
        self._is_ready = not self._shape_inputs and all(
            slot.allocator is None for slot in self._outputs.values()
        )
        return True

    def _bind(self, execution: Execution, name: str, slot: _Slot, stream: int) -> bool:
        shape = slot.shape or ()
        address = slot.address
        if name in self._late:
            if slot.allocator is None:
                return self._refuse(
                    "execute_async_v3",
                    f"the size of output {name!r} depends on data; set an output allocator for it.",
                )
            execution.bind_late(name)
            return True
        if slot.allocator is not None:
            given = self._allocate(name, slot.allocator, shape, volume(shape) * slot.item_bytes, stream)
            if given is None:
                return False
            address = given
        if not address and 0 not in shape:
            return self._refuse(
                "execute_async_v3", f"the address of {name!r} is not set; use set_tensor_address()."
            )
        execution.bind(name, shape, address)
        slot.is_bound = slot.allocator is None
        return True

    def _allocate(
        self, name: str, allocator: IOutputAllocator, shape: Shape, nbytes: int, stream: int
    ) -> int | None:
        """Memory for an output from its allocator, which is told the shape; None, with the error logged, if none."""
        before = self._slots[name].address
        address = allocator.reallocate_output_async(name, before, max(nbytes, 1), _ALIGNMENT, stream)
        if not address:
            self._refuse(
                "execute_async_v3", f"the output allocator of {name!r} gave no memory for {nbytes} bytes."
            )
            return None
        allocator.notify_shape(name, Dims(shape))
        return address

    def _deliver(self, stream: int) -> bool:
        """Copy outputs of data-dependent shape to where their allocators want them."""
        for name in self._late:
            slot = self._slots[name]
            if slot.allocator is None or self._execution is None:
                return False
            shape, source, nbytes = self._execution.late_output(name)
            address = self._allocate(name, slot.allocator, shape, nbytes, stream)
            if address is None:
                return False
            ctypes.memmove(address, source, nbytes)
        return True

    def _refuse(self, method: str, reason: str) -> Literal[False]:
        self._logger.log(ILogger.ERROR, f"{method}: {reason}")
        return False

    def _unknown(self, method: str, name: object, known: Mapping[str, Any]) -> Literal[False]:
        return self._refuse(
            method, f"there is no {name!r}; there are {', '.join(map(repr, known)) or 'none'}."
        )


def _range_text(low: Shape, high: Shape) -> str:
    """`(1 .. 8, 64)`."""
    parts = [
        str(least) if least == most else f"{least} .. {most}" for least, most in zip(low, high, strict=True)
    ]
    return f"({', '.join(parts)})"
