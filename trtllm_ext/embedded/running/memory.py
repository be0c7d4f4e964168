"""Memory of a context for values between steps: taken for one, given back when nothing reads it any more."""

from typing import Any

import numpy as np

_ALIGNMENT = 64


class Block:
    """`nbytes` or more bytes at an aligned `address`."""

    __slots__ = ("_array", "address", "nbytes")

    def __init__(self, nbytes: int) -> None:
        """Raises MemoryError if there is no such room."""
        self._array: np.ndarray[Any, Any] = np.empty(nbytes + _ALIGNMENT, np.uint8)
        start = self._array.ctypes.data
        self.address = start + -start % _ALIGNMENT
        self.nbytes = nbytes


class Blocks:
    """Blocks that are used again, so that a run need not ask the system for fresh pages."""

    def __init__(self) -> None:
        self._free: list[Block] = []

    def take(self, nbytes: int) -> Block:
        """A block of at least `nbytes`: the smallest that is free, or a new one."""
        fitting = [block for block in self._free if block.nbytes >= nbytes]
        if not fitting:
            if self._free:
                # Too small for this value, so most likely for the ones to come.
                self._free.remove(max(self._free, key=lambda block: block.nbytes))
            return Block(nbytes)
        block = min(fitting, key=lambda one: one.nbytes)
        self._free.remove(block)
        return block

    def give(self, block: Block) -> None:
        """Let a block be used for other values."""
        self._free.append(block)
