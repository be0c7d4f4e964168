"""Outputs whose shape only a run shows: the engine asks for memory in the middle of it."""

from typing import Any

from trtllm_ext import backend
from trtllm_ext.runtime.memory import Memory
from trtllm_ext.runtime.tensors import Port, Shape


class LateOutput:
    """Makes room for one such output at every run.

    allocator: what the context is given. like: a value beside which the output is to be made, as in `Memory.new`.
    """

    def __init__(self, port: Port, memory: Memory) -> None:
        self.like: Any = None
        self.allocator = _allocator_class()(self)
        self._port = port
        self._memory = memory
        self._room: Any = None
        self._shape: Shape = ()

    def make_room(self, nbytes: int) -> int:
        """Address of at least `nbytes` bytes."""
        count = -(-nbytes // self._port.numpy_dtype.itemsize)
        self._room = self._memory.new(self._port, (count,), self.like)
        return self._memory.take(self._port, self._room)

    def learn(self, shape: Shape) -> None:
        """Take note of the shape that the output has."""
        self._shape = shape

    def take(self) -> Any:
        """The output of the last run; it is the caller's then."""
        count = 1
        for length in self._shape:
            count *= length
        value = self._room[:count].reshape(self._shape)
        self._room = self.like = None
        return value


def _allocator_class() -> Any:
    class Allocator(backend.tensorrt().IOutputAllocator):  # type: ignore[misc]
        def __init__(self, output: LateOutput) -> None:
            super().__init__()
            self.output = output

        def reallocate_output(self, tensor_name: str, memory: int, size: int, alignment: int) -> int:
            return self.output.make_room(size)

        def reallocate_output_async(
            self, tensor_name: str, memory: int, size: int, alignment: int, stream: int
        ) -> int:
            return self.output.make_room(size)

        def notify_shape(self, tensor_name: str, shape: Any) -> None:
            self.output.learn(tuple(shape))

    return Allocator
