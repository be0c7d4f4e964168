"""Device memory for sessions on the real TensorRT: through torch where it is installed, else through cuda-python.

torch comes first because a program that has it keeps its own tensors there, and one allocator should own the memory.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol

from trtllm_ext.errors import BackendError
from trtllm_ext.runtime.cuda_python import DRIVER_MODULES, CudaPythonBuffers
from trtllm_ext.runtime.cuda_torch import TorchBuffers

# pip's commands, in the order of preference.
WAYS_TO_BUFFERS = ("pip install torch", "pip install cuda-python")


class DeviceBuffers(Protocol):
    """Memory of the current device, and the way there and back. Pointers are those that `allocate` gave.

    Copies are done on return. They do not wait for other streams: what still uses the memory must be waited for first,
    by `synchronize`. Any thread may call. Each failure is a BackendError.
    """

    # The library and its version, for people.
    library: str

    def allocate(self, nbytes: int) -> int:
        """Device memory, at least one byte; free it with `free`."""
        ...

    def free(self, pointer: int) -> None:
        """Give memory of `allocate` back."""
        ...

    def upload(self, pointer: int, address: int, nbytes: int) -> None:
        """Copy `nbytes` of host memory at `address` to the device."""
        ...

    def download(self, address: int, pointer: int, nbytes: int) -> None:
        """Copy `nbytes` of device memory to the host's at `address`."""
        ...

    def synchronize(self, stream: int) -> None:
        """Wait for all work of a stream, by its handle (0 is the default stream)."""
        ...


def device_buffers() -> DeviceBuffers:
    """Buffers on the current device by the library that is here.

    Raises BackendError with the reasons and the ways out when neither torch nor cuda-python can serve.
    """
    reasons = []
    openers: tuple[Callable[[], DeviceBuffers], ...] = (_of_torch, _of_cuda_python)
    for opened in openers:
        try:
            return opened()
        except BackendError as problem:
            reasons.append(str(problem))
    raise BackendError(
        f"no library for device memory can be used: {'; '.join(reasons)}. Do one of: {'; '.join(WAYS_TO_BUFFERS)}."
    )


def _of_torch() -> DeviceBuffers:
    torch = _imported("torch", ("torch",))
    version = getattr(torch, "__version__", "of unknown version")
    if not torch.cuda.is_available():
        raise BackendError(
            f"torch {version} is installed, but finds no CUDA device (is it a build for CPUs?)"
        )
    return TorchBuffers(torch, torch.device("cuda", torch.cuda.current_device()), f"torch {version}")


def _of_cuda_python() -> DeviceBuffers:
    driver = _imported("cuda-python", DRIVER_MODULES)
    version = getattr(
        _imported("cuda-python", ("cuda.bindings", "cuda")), "__version__", "of unknown version"
    )
    return CudaPythonBuffers(driver, f"cuda-python {version}")


def _imported(package: str, names: tuple[str, ...]) -> Any:
    """The first of these modules that exists. Raises BackendError with what is wrong with the last."""
    problem: Exception | None = None
    for name in names:
        try:
            return import_module(name)
        except Exception as error:  # a missing shared object surfaces as ImportError, OSError or RuntimeError
            problem = error
    if isinstance(problem, ModuleNotFoundError):
        raise BackendError(f"{package} is not installed")
    raise BackendError(f"{package} does not import ({problem})")


class DeviceCopies:
    """One growing device buffer per tensor name, so that repeated runs allocate nothing."""

    def __init__(self) -> None:
        self.cuda = device_buffers()
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
