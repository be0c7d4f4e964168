"""Device buffers that are torch tensors of bytes."""

import ctypes
from typing import Any

import numpy as np

from trtllm_ext.errors import BackendError


class TorchBuffers:
    """`DeviceBuffers` over torch. torch: the module. device: the `torch.device` that memory is taken of."""

    def __init__(self, torch: Any, device: Any, library: str = "torch") -> None:
        self.library = library
        self._torch, self._device = torch, device
        self._tensors: dict[int, Any] = {}

    def allocate(self, nbytes: int) -> int:
        torch = self._torch
        try:
            tensor = torch.empty(max(nbytes, 1), dtype=torch.uint8, device=self._device)
        except RuntimeError as problem:  # torch.OutOfMemoryError is one
            raise BackendError(
                f"{nbytes} bytes on {self._device} cannot be had: {_first(problem)}"
            ) from problem
        pointer = int(tensor.data_ptr())
        self._tensors[pointer] = tensor
        return pointer

    def free(self, pointer: int) -> None:
        del self._tensors[pointer]

    def upload(self, pointer: int, address: int, nbytes: int) -> None:
        self._copy(self._tensors[pointer][:nbytes], self._host(address, nbytes))

    def download(self, address: int, pointer: int, nbytes: int) -> None:
        self._copy(self._host(address, nbytes), self._tensors[pointer][:nbytes])

    def synchronize(self, stream: int) -> None:
        cuda = self._torch.cuda
        try:
            if stream:
                cuda.ExternalStream(stream, device=self._device).synchronize()
            else:
                cuda.default_stream(self._device).synchronize()
        except RuntimeError as problem:
            raise BackendError(f"the work of stream {stream} failed: {_first(problem)}") from problem

    def _copy(self, target: Any, source: Any) -> None:
        try:
            target.copy_(source)
            # torch may return while the last piece is still on its way, and other streams would not wait for it.
            self._torch.cuda.current_stream(self._device).synchronize()
        except RuntimeError as problem:
            raise BackendError(f"a copy to or from {self._device} failed: {_first(problem)}") from problem

    def _host(self, address: int, nbytes: int) -> Any:
        """Bytes of the host as a tensor, in place; shape (nbytes,)."""
        block = (ctypes.c_uint8 * nbytes).from_address(address)
        return self._torch.from_numpy(np.ctypeslib.as_array(block))


def _first(problem: Exception) -> str:
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0]
