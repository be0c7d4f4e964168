"""Interfaces that an application implements: where outputs go, and where a serialized engine goes."""


class IOutputAllocator:
    """Gives an output its memory once its size is known; a subclass overrides the methods."""

    def __init__(self) -> None:
        """Nothing to set up; subclasses call it as TensorRT demands."""

    def reallocate_output(self, tensor_name: str, memory: int, size: int, alignment: int) -> int:
        """The address of at least `size` bytes for the output; `memory` is the one it had, or 0."""
        raise RuntimeError(
            f"{type(self).__name__} must override reallocate_output or reallocate_output_async"
        )

    def reallocate_output_async(
        self, tensor_name: str, memory: int, size: int, alignment: int, stream: int
    ) -> int:
        """As `reallocate_output()`, for a run on `stream`."""
        return self.reallocate_output(tensor_name, memory, size, alignment)

    def notify_shape(self, tensor_name: str, shape: object) -> None:
        """Called with the exact shape (Dims) of the output."""
        raise RuntimeError(f"{type(self).__name__} must override notify_shape")


class IStreamWriter:
    """Takes a serialized engine piece by piece; a subclass overrides `write()`."""

    def __init__(self) -> None:
        """Nothing to set up; subclasses call it as TensorRT demands."""

    def write(self, data: memoryview) -> int:
        """Take all of `data`, which is only valid during the call, and return how many bytes were taken."""
        raise RuntimeError(f"{type(self).__name__} must override write")
