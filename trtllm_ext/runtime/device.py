"""Where an engine runs: the CPU, or a CUDA device of a certain compute capability."""

import ctypes

from trtllm_ext import backend
from trtllm_ext.errors import BackendError

CPU = "cpu"
# CUdevice_attribute, from the CUDA driver API.
_MAJOR, _MINOR = 75, 76


def compute_capability() -> str:
    """ "cpu" for the embedded engine, else the compute capability of the CUDA device in use, such as "9.0".

    In use is the device that this thread has chosen, by torch or otherwise, and else the first.
    """
    if backend.choice().engine == "embedded":
        return CPU
    driver = backend.cuda_driver()
    if driver is None:
        raise BackendError(
            "the NVIDIA driver library cannot be loaded (libcuda.so.1). Run on a machine with an NVIDIA GPU and its "
            f"driver, or set {backend.ENVIRONMENT_VARIABLE}=embedded to run on the CPU."
        )
    handle, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    failed = (
        driver.cuInit(0)
        or (driver.cuCtxGetDevice(ctypes.byref(handle)) and driver.cuDeviceGet(ctypes.byref(handle), 0))
        or driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, handle)
        or driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, handle)
    )
    if failed:
        raise BackendError(f"the NVIDIA driver does not describe its device (CUDA driver error {failed}).")
    return f"{major.value}.{minor.value}"
