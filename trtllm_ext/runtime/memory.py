"""Where a session's tensors lie: in host memory for the embedded engine, on the device for TensorRT."""

import sys
from typing import Any, Protocol

import numpy as np

from trtllm_ext.errors import InputError
from trtllm_ext.runtime.cuda import DeviceCopies
from trtllm_ext.runtime.tensors import Port, Shape, address_of, is_on_host, is_torch


class Memory(Protocol):
    """Turns callers' values into addresses, makes outputs, and finishes a run."""

    # Whether an unchanged host array needs nothing before the next run.
    reads_in_place: bool

    def take(self, port: Port, value: Any) -> int:
        """Address at which the engine finds (or puts) `value`; no copy where the engine can reach it."""
        ...

    def share(self, name: str, values: np.ndarray[Any, Any]) -> None:
        """Have whatever begins where `values` does, and is no longer, read from one copy of it, not one an input.

        values: an array that lives as long as the session, and that nobody writes to. name: of all that it replaces.
        """
        ...

    def new(self, port: Port, shape: Shape, like: Any) -> Any:
        """A new output: a torch tensor beside `like` when that is one, else a numpy array."""
        ...

    def finish(self, outputs: dict[str, Any], stream: int) -> None:
        """Bring results to where the caller looks for them."""
        ...

    def forget(self) -> None:
        """Drop what is left of a run that failed."""
        ...

    def close(self) -> None:
        """Free what was allocated."""
        ...


class HostMemory:
    """The embedded engine: host pointers, read and written in place."""

    reads_in_place = True

    def take(self, port: Port, value: Any) -> int:
        if not is_on_host(value):
            raise InputError(
                f"{port.role} {port.name!r} is on device {value.device}, but the embedded engine reads and "
                f"writes host memory. Pass value.cpu()."
            )
        return address_of(value)

    def share(self, name: str, values: np.ndarray[Any, Any]) -> None:
        return

    def new(self, port: Port, shape: Shape, like: Any) -> Any:
        if is_torch(like):
            return _torch_empty(port, shape, "cpu")
        return np.empty(shape, port.numpy_dtype)

    def finish(self, outputs: dict[str, Any], stream: int) -> None:
        return

    def forget(self) -> None:
        return

    def close(self) -> None:
        return


class DeviceMemory:
    """TensorRT: device pointers. Tensors on the device are used in place, host arrays are copied there and back."""

    reads_in_place = False

    def __init__(self) -> None:
        self._copies = DeviceCopies()
        self._pending: list[tuple[Any, int]] = []
        self._uses_copies = False
        # By name: address on the host, size in bytes, pointer on the device.
        self._shared: dict[str, tuple[int, int, int]] = {}

    def take(self, port: Port, value: Any) -> int:
        if port.is_shape:
            if not is_on_host(value):
                raise InputError(
                    f"input {port.name!r} is read on the host to work out shapes, but it is on "
                    f"{value.device}. Pass value.cpu()."
                )
            return address_of(value)
        if not is_on_host(value) and value.numel():
            return address_of(value)
        # Empty tensors on the device get memory too: their pointers are null, which TensorRT refuses.
        nbytes = int(value.nbytes)
        for address, most, shared in self._shared.values():
            if port.is_input and nbytes <= most and address_of(value) == address:
                return shared
        pointer = self._copies.room(port.name, nbytes)
        self._uses_copies = True
        if nbytes and port.is_input:
            self._copies.cuda.upload(pointer, address_of(value), nbytes)
        elif nbytes:
            self._pending.append((value, pointer))
        return pointer

    def share(self, name: str, values: np.ndarray[Any, Any]) -> None:
        # A copy that a larger one replaces stays: a run may still read it.
        pointer = self._copies.room(f"{name}, {values.nbytes} bytes", values.nbytes)
        self._copies.cuda.upload(pointer, address_of(values), values.nbytes)
        self._shared[name] = (address_of(values), values.nbytes, pointer)

    def new(self, port: Port, shape: Shape, like: Any) -> Any:
        if is_torch(like):
            return _torch_empty(port, shape, like.device)
        return np.empty(shape, port.numpy_dtype)

    def finish(self, outputs: dict[str, Any], stream: int) -> None:
        pending, self._pending = self._pending, []
        if self._uses_copies:
            # Inputs count too: the next run writes over their copies, and copies wait for no stream.
            self._copies.cuda.synchronize(stream)
            self._uses_copies = False
        for value, pointer in pending:
            self._copies.cuda.download(address_of(value), pointer, int(value.nbytes))

    def forget(self) -> None:
        self._pending.clear()
        self._uses_copies = False

    def close(self) -> None:
        self._copies.close()


def _torch_empty(port: Port, shape: Shape, device: Any) -> Any:
    torch = sys.modules["torch"]
    return torch.empty(shape, dtype=getattr(torch, port.torch_dtype.removeprefix("torch.")), device=device)
