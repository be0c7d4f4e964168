"""Device buffers through the CUDA driver, by NVIDIA's cuda-python.

The driver's own functions need no CUDA runtime of a fitting version. Everything happens in the primary context of the
device, the one that TensorRT uses too.
"""

from typing import Any

from trtllm_ext.errors import BackendError

# Its place since cuda-python 12.6.1, and the one before.
DRIVER_MODULES = ("cuda.bindings.driver", "cuda.cuda")


class CudaPythonBuffers:
    """`DeviceBuffers` over cuda-python. driver: the module `cuda.bindings.driver`."""

    def __init__(self, driver: Any, library: str = "cuda-python") -> None:
        self.library = library
        self._driver = driver
        try:
            self._call("cuInit", 0)
        except BackendError:
            raise
        except Exception as problem:  # what the package raises when it finds no driver library
            first = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
            raise BackendError(
                f"{library} is installed, but finds no NVIDIA driver ({first.rstrip('.')})"
            ) from problem
        self._context = self._call("cuCtxGetCurrent")
        if not int(self._context):
            device = self._call("cuDeviceGet", 0)
            self._context = self._call("cuDevicePrimaryCtxRetain", device)
            self._call("cuCtxSetCurrent", self._context)

    def allocate(self, nbytes: int) -> int:
        self._enter()
        return int(self._call("cuMemAlloc", max(nbytes, 1)))

    def free(self, pointer: int) -> None:
        self._enter()
        self._call("cuMemFree", pointer)

    def upload(self, pointer: int, address: int, nbytes: int) -> None:
        self._enter()
        self._call("cuMemcpyHtoD", pointer, address, nbytes)
        # The call may return while the last piece is still on its way, and other streams would not wait for it.
        self._call("cuStreamSynchronize", 0)

    def download(self, address: int, pointer: int, nbytes: int) -> None:
        self._enter()
        self._call("cuMemcpyDtoH", address, pointer, nbytes)

    def synchronize(self, stream: int) -> None:
        self._enter()
        self._call("cuStreamSynchronize", stream)

    def _enter(self) -> None:
        """Give this thread the context: a thread begins without one, and sessions may be run by any."""
        if not int(self._call("cuCtxGetCurrent")):
            self._call("cuCtxSetCurrent", self._context)

    def _call(self, name: str, *args: Any) -> Any:
        """The value of a driver function; BackendError with the driver's own text for a code other than 0."""
        code, *values = getattr(self._driver, name)(*args)
        if int(code):
            _, text = self._driver.cuGetErrorString(code)
            said = text.decode(errors="replace") if text else "unknown error"
            raise BackendError(f"{name} failed: {said} (CUDA error {int(code)}).")
        return values[0] if values else None
