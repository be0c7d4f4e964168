"""One thread for numpy's products, for as long as it takes.

A product of a matrix and a vector waits for memory, which further threads make no faster; OpenBLAS starts them all the
same, and they wait for each other awake.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

# numpy's wheels rename what is in their OpenBLAS.
_NAMES = ("{}_num_threads64_", "{}_num_threads")
_PREFIXES = ("scipy_openblas_", "openblas_")


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Set OpenBLAS to one thread; of another library, or on another system, nothing is changed."""
    functions = _functions()
    if functions is None:
        yield
        return
    get, put = functions
    before = get()
    put(1)
    try:
        yield
    finally:
        put(before)


@cache
def _functions() -> tuple[Any, Any] | None:
    """(get, set) of the number of threads of the OpenBLAS that this process has loaded."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return None
    for path in dict.fromkeys(line.split()[-1] for line in lines if "openblas" in line):
        try:
            library = ctypes.CDLL(path)
        except OSError:
            continue
        for prefix in _PREFIXES:
            for name in _NAMES:
                pair = [getattr(library, name.format(prefix + verb), None) for verb in ("get", "set")]
                if None not in pair:
                    return pair[0], pair[1]
    return None
