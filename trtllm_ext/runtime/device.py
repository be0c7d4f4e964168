"""Where an engine runs: the CPU, or a CUDA device of a certain compute capability."""

import ctypes

from trtllm_ext import backend
from trtllm_ext.errors import BackendError

CPU = "cpu"
# CUdevice_attribute, from the CUDA driver API.
_MAJOR, _MINOR = 75, 76


def compute_capability(device: int = 0) -> str:
    """ "cpu" for the embedded engine, else the compute capability of a CUDA device, such as "9.0"."""
    if backend.choice().engine == "embedded":
        return CPU
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as problem:
        raise BackendError(f"the NVIDIA driver library cannot be loaded: {problem}.") from problem
    handle, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    failed = (
        driver.cuInit(0)
        or driver.cuDeviceGet(ctypes.byref(handle), device)
        or driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, handle)
        or driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, handle)
    )
    if failed:
        raise BackendError(
            f"the NVIDIA driver does not describe device {device} (CUDA driver error {failed})."
        )
    return f"{major.value}.{minor.value}"
