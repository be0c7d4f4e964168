"""Device memory through the CUDA driver, for sessions on the real TensorRT that are given numpy arrays.

Only the driver library is needed, which a machine that runs TensorRT has; torch is not. Everything happens in
the primary context of the device, the one that TensorRT and torch use too.
"""

import ctypes
from typing import Any

from trtllm_ext.errors import BackendError


class Cuda:
    """The few driver calls needed; each failure is a BackendError."""

    def __init__(self, device: int = 0) -> None:
        try:
            self._driver = ctypes.CDLL("libcuda.so.1")
        except OSError as problem:
            raise BackendError(f"the NVIDIA driver library cannot be loaded: {problem}.") from problem
        handle, current = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuInit", 0)
        self._call("cuCtxGetCurrent", ctypes.byref(current))
        if not current.value:
            self._call("cuDeviceGet", ctypes.byref(handle), device)
            self._call("cuDevicePrimaryCtxRetain", ctypes.byref(current), handle)
            self._call("cuCtxSetCurrent", current)

    def _call(self, name: str, *args: Any) -> None:
        code = getattr(self._driver, name)(*args)
        if code:
            text = ctypes.c_char_p()
            self._driver.cuGetErrorString(code, ctypes.byref(text))
            raise BackendError(
                f"{name} failed: {(text.value or b'unknown error').decode()} (CUDA error {code})."
            )

    def allocate(self, nbytes: int) -> int:
        """Device memory, at least one byte; free it with `free`."""
        pointer = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(max(nbytes, 1)))
        return pointer.value

    def free(self, pointer: int) -> None:
        """Give memory of `allocate` back."""
        self._call("cuMemFree_v2", ctypes.c_uint64(pointer))

    def upload(self, pointer: int, address: int, nbytes: int) -> None:
        """Copy host memory at `address` to the device; done on return."""
        self._call(
            "cuMemcpyHtoD_v2", ctypes.c_uint64(pointer), ctypes.c_void_p(address), ctypes.c_size_t(nbytes)
        )
        # The call may return while the last piece is still on its way, and other streams would not wait for it.
        self.synchronize(0)

    def download(self, address: int, pointer: int, nbytes: int) -> None:
        """Copy device memory to the host's at `address`; done on return."""
        self._call(
            "cuMemcpyDtoH_v2", ctypes.c_void_p(address), ctypes.c_uint64(pointer), ctypes.c_size_t(nbytes)
        )

    def synchronize(self, stream: int) -> None:
        """Wait for all work of a stream (0 is the default stream)."""
        self._call("cuStreamSynchronize", ctypes.c_void_p(stream))


class DeviceCopies:
    """One growing device buffer per tensor name, so that repeated runs allocate nothing."""

    def __init__(self) -> None:
        self.cuda = Cuda()
        self._buffers: dict[str, tuple[int, int]] = {}

    def room(self, name: str, nbytes: int) -> int:
        """Pointer to at least `nbytes` of device memory kept for `name`."""
        pointer, size = self._buffers.get(name, (0, -1))
        if size < nbytes:
            if pointer:
                self.cuda.free(pointer)
                del self._buffers[name]
            pointer = self.cuda.allocate(nbytes)
            self._buffers[name] = (pointer, nbytes)
        return pointer

    def close(self) -> None:
        """Free everything."""
        for pointer, _ in self._buffers.values():
            self.cuda.free(pointer)
        self._buffers.clear()
