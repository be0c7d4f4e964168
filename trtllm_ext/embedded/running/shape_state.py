"""What a context knows of its inputs and outputs, and the exact shapes that follow from it."""

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trtllm_ext.embedded.plan import ProfileRecord, TensorRecord
from trtllm_ext.embedded.running.loading import LoadedPlan, Shape
from trtllm_ext.embedded.running.output_allocator import IOutputAllocator
from trtllm_ext.embedded.tensor_types import ElementType
from trtllm_ext.embedded.types import Dims, volume


class Refusal(Exception):  # noqa: N818
    """A call to a context cannot be obeyed; its text is the reason, for the log."""


class Slot:
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

    def place(self, shape: Shape | None) -> None:
        """Set another shape."""
        self.shape, self.is_bound = shape, False


class ShapeState:
    """Shapes of a context's inputs within one of the engine's profiles, and those of its outputs."""

    def __init__(self, loaded: LoadedPlan, slots: Mapping[str, Slot]) -> None:
        self._loaded = loaded
        self.inputs = {name: slot for name, slot in slots.items() if slot.record.is_input}
        self.outputs = {name: slot for name, slot in slots.items() if not slot.record.is_input}
        self.shape_inputs = {name: slot for name, slot in self.inputs.items() if slot.record.is_shape_input}
        self.profile_index = 0
        # No shape has changed since those of the outputs were inferred.
        self.is_inferred = False
        # Outputs whose shape depends on data.
        self.late: tuple[str, ...] = ()

    @property
    def profile(self) -> ProfileRecord:
        """The active profile."""
        return self._loaded.plan.header.profiles[self.profile_index]

    def select_profile(self, profile_index: int) -> bool:
        """Make another profile the active one; returns whether it is another. Raises Refusal if it is not there."""
        count = len(self._loaded.plan.header.profiles)
        if not 0 <= profile_index < count:
            raise Refusal(f"there is no profile {profile_index}; the engine has profiles 0 .. {count - 1}.")
        if profile_index == self.profile_index:
            return False
        self.profile_index = profile_index
        self.is_inferred = False
        for slot in self.inputs.values():
            if -1 in slot.record.shape:
                slot.place(None)
        return True

    def set_shape(self, name: str, shape: Sequence[int] | Dims) -> bool:
        """Set the shape of an input; returns whether it is another. Raises Refusal outside the active profile."""
        slot = self.inputs[name]
        try:
            exact = tuple([length.__index__() for length in shape])
        except (AttributeError, TypeError, ValueError):
            raise Refusal(f"{shape!r} given for {name!r} is not a shape.") from None
        if exact == slot.shape:
            return False
        low, _, high = self.profile.shapes[name]
        if len(exact) != len(low):
            raise Refusal(
                f"shape {exact} of {name!r} has {len(exact)} dimensions; {slot.record.shape} needs {len(low)}."
            )
        if not _is_within(low, exact, high):
            raise Refusal(
                f"shape {exact} of {name!r} is outside of what profile {self.profile_index} allows: "
                f"{_range_text(low, high)}."
            )
        slot.place(exact)
        self.is_inferred = False
        return True

    def missing(self) -> list[str]:
        """Inputs without whose shape or value the shapes of outputs cannot be inferred."""
        if self.is_inferred:
            return []
        missing = [name for name, slot in self.inputs.items() if slot.shape is None]
        for name, slot in self.shape_inputs.items():
            low, _, high = self.profile.values[name]
            if not slot.address and low != high and name not in missing:
                missing.append(name)
        return missing

    def infer(self) -> bool:
        """Bring the shapes of outputs up to date, once nothing is missing; returns whether one changed.

        Raises Refusal if inputs do not fit each other or values leave the profile.
        """
        if self.is_inferred:
            return False
        shapes = {name: slot.shape for name, slot in self.inputs.items() if slot.shape is not None}
        values = {name: self._value(name, slot) for name, slot in self.shape_inputs.items()}
        try:
            found = self._loaded.output_shapes(shapes, values)
        except ValueError as error:
            raise Refusal(f"the shapes of the inputs do not fit each other: {error}") from None
        has_changed = False
        for name, slot in self.outputs.items():
            if slot.shape != found[name]:
                slot.place(found[name])
                has_changed = True
        self.late = tuple(name for name, shape in found.items() if -1 in shape)
        # Values of shape inputs may change in place, unseen.
        self.is_inferred = not self.shape_inputs
        return has_changed

    def largest(self, name: str) -> Shape | None:
        """The shape of an output at the largest inputs of the active profile; None if those do not fit together."""
        shapes = {key: self.profile.shapes[key][2] for key in self.inputs}
        try:
            values = {
                key: _array(self.profile.values[key][2], slot) for key, slot in self.shape_inputs.items()
            }
            return self._loaded.output_shapes(shapes, values, at_most=True)[name]
        except (ValueError, OverflowError):
            return None

    def _value(self, name: str, slot: Slot) -> np.ndarray[Any, Any]:
        """The value of a shape input, from memory, or from a profile that leaves no choice."""
        low, _, high = self.profile.values[name]
        if not slot.address:
            return _array(low, slot)
        shape = slot.shape or ()
        data = ctypes.string_at(slot.address, volume(shape) * slot.item_bytes)
        value = np.frombuffer(data, slot.element.storage).reshape(shape)
        given = tuple(value.reshape(-1).tolist())
        if not _is_within(low, given, high):
            raise Refusal(
                f"value {given} of {name!r} is outside of what profile {self.profile_index} allows: "
                f"{_range_text(low, high)}."
            )
        return value


def _array(elements: Shape, slot: Slot) -> np.ndarray[Any, Any]:
    return np.array(elements, slot.element.storage).reshape(slot.record.shape)


def _is_within(low: Shape, given: Shape, high: Shape) -> bool:
    return all(least <= length <= most for length, least, most in zip(given, low, high, strict=True))


def _range_text(low: Shape, high: Shape) -> str:
    """`(1 .. 8, 64)`."""
    parts = [
        str(least) if least == most else f"{least} .. {most}" for least, most in zip(low, high, strict=True)
    ]
    return f"({', '.join(parts)})"
