"""Stand-ins for devices and for the libraries that reach them: everything lies in host memory."""

import ctypes
import threading
from types import SimpleNamespace

import numpy as np


class HostDevice:
    """Device buffers in host memory, never zero at the beginning."""

    library = "a stand-in on the host"

    def __init__(self):
        self.buffers = {}

    def allocate(self, nbytes):
        buffer = np.full(max(nbytes, 1) + 64, 0xAA, np.uint8)
        pointer = buffer.ctypes.data + (-buffer.ctypes.data) % 64
        self.buffers[pointer] = buffer
        return pointer

    def free(self, pointer):
        del self.buffers[pointer]

    def upload(self, pointer, address, nbytes):
        ctypes.memmove(pointer, address, nbytes)

    def download(self, address, pointer, nbytes):
        ctypes.memmove(address, pointer, nbytes)

    def synchronize(self, stream):
        pass


class Counted:
    """Device buffers that count what is done with them."""

    def __init__(self, inner):
        self.inner = inner
        self.buffers = set()
        self.uploads = self.downloads = 0
        self.streams = []

    def allocate(self, nbytes):
        pointer = self.inner.allocate(nbytes)
        self.buffers.add(pointer)
        return pointer

    def free(self, pointer):
        self.inner.free(pointer)
        self.buffers.remove(pointer)

    def upload(self, pointer, address, nbytes):
        self.uploads += 1
        self.inner.upload(pointer, address, nbytes)

    def download(self, address, pointer, nbytes):
        assert self.streams, "results were copied before the device was done"
        self.downloads += 1
        self.inner.download(address, pointer, nbytes)

    def synchronize(self, stream):
        self.streams.append(stream)
        self.inner.synchronize(stream)


class FakeDriver:
    """`cuda.bindings.driver` over host memory: codes before values, and a context that each thread lacks at first."""

    def __init__(self, devices=1):
        self.memory, self.devices = HostDevice(), devices
        self.thread = threading.local()
        self.fails = {}
        self.calls = []

    def _answer(self, name, *values):
        self.calls.append(name)
        if name not in (
            "cuInit",
            "cuDeviceGet",
            "cuDevicePrimaryCtxRetain",
            "cuCtxGetCurrent",
            "cuCtxSetCurrent",
        ):
            assert getattr(self.thread, "context", 0), f"{name} in a thread without a context"
        code = self.fails.get(name, 0)
        return (code, *(None for _ in values)) if code else (0, *values)

    def cuInit(self, flags):  # noqa: N802
        return self._answer("cuInit")

    def cuDeviceGet(self, ordinal):  # noqa: N802
        return self._answer("cuDeviceGet", ordinal)

    def cuDevicePrimaryCtxRetain(self, device):  # noqa: N802
        return self._answer("cuDevicePrimaryCtxRetain", 0xC0)

    def cuCtxGetCurrent(self):  # noqa: N802
        return self._answer("cuCtxGetCurrent", getattr(self.thread, "context", 0))

    def cuCtxSetCurrent(self, context):  # noqa: N802
        self.thread.context = context
        return self._answer("cuCtxSetCurrent")

    def cuMemAlloc(self, bytesize):  # noqa: N802
        return self._answer("cuMemAlloc", self.memory.allocate(bytesize))

    def cuMemFree(self, dptr):  # noqa: N802
        self.memory.free(dptr)
        return self._answer("cuMemFree")

    def cuMemcpyHtoD(self, dst, src, count):  # noqa: N802
        self.memory.upload(dst, src, count)
        return self._answer("cuMemcpyHtoD")

    def cuMemcpyDtoH(self, dst, src, count):  # noqa: N802
        self.memory.download(dst, src, count)
        return self._answer("cuMemcpyDtoH")

    def cuStreamSynchronize(self, stream):  # noqa: N802
        return self._answer("cuStreamSynchronize")

    def cuGetErrorString(self, error):  # noqa: N802
        return 0, {2: b"out of memory"}.get(error, b"unknown")


def torch_on_the_host(torch):
    """The module torch with a `cuda` whose streams only record that they were waited for."""
    waited = []

    def stream(handle, device=None):
        return SimpleNamespace(synchronize=lambda: waited.append(handle))

    cuda = SimpleNamespace(
        ExternalStream=stream,
        default_stream=lambda device: stream("default"),
        current_stream=lambda device: stream("current"),
        waited=waited,
    )
    return SimpleNamespace(
        empty=lambda size, dtype, device: torch.full((size,), 0xAA, dtype=dtype, device=device),
        uint8=torch.uint8,
        from_numpy=torch.from_numpy,
        cuda=cuda,
    )
