"""A cublasLt that computes on the CPU (cublaslt_on_cpu/), from Python: its file, and its knobs as attributes."""

import ctypes
from pathlib import Path

from cpu_library import CUBLASLT, compile_on_cpu

# What tests set, and its value in a fake that nobody touched.
_MOODS = {
    "num_algorithms": 40,
    "scratch": 0,
    "fastest": -1,
    "slow_us": 0,
    "refused": -1,
    "refused_rows": -1,
    "narrow_columns": -1,
    "broken": 0,
    "handles_refused": 0,
}


class FakeCublasLt:
    """The library at `path`. Knobs, described in fake_cublaslt.h, are read and set by `get` and `set`."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or compile_on_cpu(
            list(CUBLASLT.glob("*.cpp")), "fake_cublaslt", flags=(f"-I{CUBLASLT}",)
        )
        self._knob = ctypes.CDLL(str(self.path)).fake_cublaslt_knob
        self._knob.restype = ctypes.POINTER(ctypes.c_int64)
        self._knob.argtypes = [ctypes.c_char_p]

    def get(self, name: str) -> int:
        return int(self._knob(name.encode())[0])

    def set(self, **knobs: int) -> None:
        for name, value in knobs.items():
            self._knob(name.encode())[0] = value

    def reset(self) -> None:
        """All moods off, and nothing counted yet but what lives."""
        counters = ("created", "queries", "products", "broken_promises", "algorithms", "epilogues")
        self.set(**_MOODS, **dict.fromkeys(counters, 0))

    def recent(self, name: str, count: int) -> list[int]:
        """The last `count` entries of 'algorithms' or 'epilogues', the oldest first."""
        return [self.get(name) >> 8 * back & 255 for back in reversed(range(count))]
