"""The kernels' library for tests without a GPU."""

from pathlib import Path

import pytest
from cpu_library import KERNELS, compile_on_cpu


@pytest.fixture(scope="session")
def kernels_on_cpu() -> Path:
    """The path of plugins/kernels as a library that runs on the CPU; skips where it cannot be compiled."""
    return compile_on_cpu([*KERNELS.glob("*.cu"), *KERNELS.glob("*.cpp")], "trtllm_ext_kernels")
