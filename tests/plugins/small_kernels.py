"""The kernels of small_kernels.cu, to be called from tests and from programs that tests start."""

import ctypes
from pathlib import Path

import numpy as np

SOURCE = Path(__file__).with_name("small_kernels.cu")


class SmallKernels:
    """The library that small_kernels.cu was compiled to."""

    def __init__(self, path: Path):
        self._library = ctypes.CDLL(str(path))
        self._library.launch_small.restype = ctypes.c_char_p
        self._library.launch_small.argtypes = [
            *[ctypes.c_char_p, ctypes.c_uint * 3, ctypes.c_uint * 3, ctypes.c_size_t],
            *[ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int],
        ]
        self._library.take_last_error.restype = ctypes.c_char_p

    def launch(self, name, given, out, n=0, *, grid=(1, 1, 1), block=(32, 1, 1), shared_bytes=0) -> str:
        """Runs a kernel on float32 arrays; returns what went wrong, "" for nothing."""
        given = np.ascontiguousarray(given, np.float32)
        assert out.dtype == np.float32 and out.flags.c_contiguous
        addresses = (given.ctypes.data, out.ctypes.data)
        said = self._library.launch_small(
            name.encode(),
            (ctypes.c_uint * 3)(*grid),
            (ctypes.c_uint * 3)(*block),
            shared_bytes,
            *addresses,
            n,
        )
        return said.decode()

    def allow_shared_bytes(self, name: str, count: int) -> int:
        return self._library.allow_shared_bytes(name.encode(), count)

    def take_last_error(self) -> str:
        return self._library.take_last_error().decode()


def line_of(marked: str) -> int:
    """The line of small_kernels.cu that ends with this remark."""
    lines = SOURCE.read_text().splitlines()
    return 1 + next(i for i, line in enumerate(lines) if line.endswith(f"// {marked}"))
