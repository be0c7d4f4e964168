"""Collectives during a run: what this rank does of them, on memory of one context."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from trtllm_ext.embedded.plan import CollectiveStep
from trtllm_ext.embedded.running.memory import Blocks
from trtllm_ext.embedded.running.place import Place
from trtllm_ext.embedded.tensor_types import element_type_named
from trtllm_ext.errors import EngineError
from trtllm_ext.parallel import Communicator
from trtllm_ext.parallel.reductions import NARROW_TYPES, REDUCE_OPS

Array = np.ndarray[Any, Any]


class Scratch:
    """Room of a context in which narrow floats are combined as float32; it grows to the largest use."""

    def __init__(self) -> None:
        self._arrays: dict[int, Array] = {}

    def floats(self, slot: int, count: int) -> Array:
        """`count` float32 numbers; each slot has its own room."""
        array = self._arrays.get(slot)
        if array is None or array.size < count:
            array = self._arrays[slot] = np.empty(count, np.float32)
        return array[:count]


class CollectiveCall:
    """One collective step of a context.

    Sums and the like of float32 and integers are done in place, in the memory of the input where nothing else is to
    see that; half and bfloat16 are widened to float32, combined, and rounded once, to nearest even.
    takes_over: the input is of no use after this step, and lies in memory of the engine.
    """

    def __init__(self, step: CollectiveStep, blocks: Blocks, scratch: Scratch, *, takes_over: bool) -> None:
        self.step = step
        self.name = step.layer
        self.communicator: Communicator | None = None
        self._blocks = blocks
        self._scratch = scratch
        self._takes_over = takes_over
        self._count = len(step.group)
        self._is_narrow = step.dtype in NARROW_TYPES and step.reduce_op != "NONE"
        self._op = REDUCE_OPS.get(step.reduce_op, "sum")
        storage = element_type_named(step.dtype).storage
        self._item_bytes = storage.itemsize
        # What is only moved is moved as bytes, whatever it means.
        self._given = _View(np.dtype(np.uint8) if step.operation == "ALL_GATHER" else storage)
        self._made = _View(np.dtype(np.uint8) if step.operation == "ALL_GATHER" else storage)

    def run(self, values: dict[str, Place], targets: Mapping[str, Place], stream: int) -> None:
        """Do it and put the output among `values`; in `targets` is where an output of the engine is wanted.

        Raises RankError if the ranks cannot finish it, EngineError without a communicator, or if shapes do not fit.
        """
        communicator = self.communicator
        if communicator is None:
            raise EngineError(f"{self.name}: there is no communicator; use set_communicator().")
        given = values[self.step.input]
        shape = self._shape(given.shape)
        made = self._place(given, shape, targets.get(self.step.output))
        values[self.step.output] = made
        if 0 not in shape:
            if self.step.operation == "ALL_REDUCE":
                self._all_reduce(communicator, given, made)
            elif self.step.operation == "ALL_GATHER":
                self._all_gather(communicator, given, made)
            else:
                self._reduce_scatter(communicator, given, made)

    def _shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if self.step.operation == "ALL_REDUCE":
            return shape
        first, *rest = shape
        if self.step.operation == "ALL_GATHER":
            return (first * self._count, *rest)
        if first % self._count:
            raise EngineError(f"{self.name}: {first} rows do not split over {self._count} ranks.")
        return (first // self._count, *rest)

    def _place(self, given: Place, shape: tuple[int, ...], target: Place | None) -> Place:
        """Where the output is to lie."""
        if target is not None:
            if target.shape != shape:
                raise EngineError(f"{self.name}: its output of shape {shape} is bound as {target.shape}.")
            return target
        if self._takes_over and self.step.operation == "ALL_REDUCE":
            made = Place(shape, given.address, given.owner)
            given.owner = None
            return made
        block = self._blocks.take(math.prod(shape) * self._item_bytes)
        return Place(shape, block.address, block)

    def _all_reduce(self, communicator: Communicator, given: Place, made: Place) -> None:
        size = math.prod(given.shape)
        if self._is_narrow:
            wide = self._scratch.floats(0, size)
            wide[...] = self._given.at(given.address, size)
            communicator.all_reduce(wide, self.step.group, self._op)
            self._round(wide, self._made.at(made.address, size))
            return
        if made.address != given.address:
            ctypes.memmove(made.address, given.address, size * self._item_bytes)
        values = self._made.at(made.address, size)
        communicator.all_reduce(values, self.step.group, self._op)
        self._average(values)

    def _all_gather(self, communicator: Communicator, given: Place, made: Place) -> None:
        nbytes = math.prod(given.shape) * self._item_bytes
        gathered = self._made.at(made.address, nbytes * self._count)
        communicator.all_gather(self._given.at(given.address, nbytes), gathered, self.step.group)

    def _reduce_scatter(self, communicator: Communicator, given: Place, made: Place) -> None:
        size = math.prod(made.shape)
        values = self._given.at(given.address, size * self._count)
        part = self._made.at(made.address, size)
        if not self._is_narrow:
            communicator.reduce_scatter(values, part, self.step.group, self._op)
            self._average(part)
            return
        wide, wide_part = self._scratch.floats(0, values.size), self._scratch.floats(1, size)
        wide[...] = values
        communicator.reduce_scatter(wide, wide_part, self.step.group, self._op)
        self._round(wide_part, part)

    def _round(self, wide: Array, narrow: Array) -> None:
        self._average(wide)
        # As ONNX Runtime does, what is too large becomes infinite, without a warning.
        with np.errstate(over="ignore"):
            narrow[...] = wide

    def _average(self, values: Array) -> None:
        if self.step.reduce_op == "AVG":
            np.divide(values, values.dtype.type(self._count), out=values)


class _View:
    """Memory at an address as an array; the last one is kept, since contexts use the same memory again and again."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._dtype = dtype
        self._key = (0, 0)
        self._array: Array = np.empty(0, dtype)

    def at(self, address: int, count: int) -> Array:
        """`count` elements; 0-length views are never asked for."""
        key = (address, count)
        if key != self._key:
            memory = (ctypes.c_uint8 * (count * self._dtype.itemsize)).from_address(address)
            self._array, self._key = np.ctypeslib.as_array(memory).view(self._dtype), key
        return self._array
