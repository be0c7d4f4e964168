"""Who works on a row, and which devices are served: the launchers' pure functions."""

import ctypes
import subprocess
from ctypes import c_int64
from pathlib import Path

import pytest
from cpu_library import KERNELS, compiler

BUDGET_S = 1

SOURCE = Path(__file__).with_name("pure_functions.cpp")


@pytest.fixture(scope="module")
def functions(tmp_path_factory):
    library = tmp_path_factory.mktemp("row_plan") / "functions.so"
    flags = ["-std=c++17", "-O1", "-shared", "-fPIC", f"-I{KERNELS}"]
    subprocess.run([compiler(), *flags, str(SOURCE), "-o", str(library)], check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.architectures_serve.restype = ctypes.c_bool
    return loaded


def plan(functions, num_vectors):
    numbers = (ctypes.c_int * 3)()
    functions.plan_rows(c_int64(num_vectors), numbers)
    return tuple(numbers)


@pytest.mark.parametrize(
    "num_vectors, expected",
    [
        (1, (1, 8, 16)),
        (8, (1, 8, 16)),
        (9, (1, 16, 8)),
        (16, (1, 16, 8)),
        (17, (1, 32, 4)),
        (32, (1, 32, 4)),
        (33, (2, 32, 4)),
        (128, (2, 64, 2)),
        (256, (2, 128, 1)),
        (512, (2, 256, 1)),  # 4096 16-bit elements
        (513, (4, 160, 1)),
        (640, (4, 160, 1)),  # 5120
        (1024, (4, 256, 1)),
        (2048, (4, 512, 1)),
        (2049, (0, 512, 1)),
        (2**28, (0, 512, 1)),
    ],
)
def test_plans(functions, num_vectors, expected):
    assert plan(functions, num_vectors) == expected


def test_every_row_in_registers_has_room(functions):
    for num_vectors in range(1, 2049):
        vectors, threads, rows = plan(functions, num_vectors)
        block = threads * rows
        assert vectors * threads >= num_vectors
        assert block % 32 == 0 and 64 < block <= (512 if vectors == 4 else 256)
        assert threads % 32 == 0 or (vectors == 1 and threads in (8, 16))
        # Less than a warp's share, or half of the threads of a row that one warp has, is left over.
        assert vectors * threads - num_vectors < max(32 * vectors, 8)


@pytest.mark.parametrize(
    "architectures, served, refused",
    [
        ("90a", (90,), (80, 89, 91, 100)),
        ("80", (80, 86, 89), (75, 90, 100)),
        ("89-real", (89,), (80, 86, 90)),
        ("80;89;90a;100", (80, 86, 89, 90, 100, 103), (75, 120)),
        ("100f,90-virtual", (100, 103), (90, 110)),
        ("", (), (80, 90)),
    ],
)
def test_which_devices_are_served(functions, architectures, served, refused):
    for capability in served:
        assert functions.architectures_serve(architectures.encode(), capability), capability
    for capability in refused:
        assert not functions.architectures_serve(architectures.encode(), capability), capability
