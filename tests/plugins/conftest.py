"""The kernels' library for tests without a GPU."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cpu_library import KERNELS, compile_on_cpu
from fake_cublaslt import FakeCublasLt
from player_build import RELEASES, Played, build_on_cpu, headers_of
from player_cases import Session


def pytest_collection_modifyitems(items):
    """The file whose budget has the compilation of the kernels comes first."""
    items.sort(key=lambda item: item.path.name != "test_cuda_on_cpu.py")


@pytest.fixture(scope="session")
def kernels_on_cpu() -> Iterator[Path]:
    """The path of plugins/kernels as a library that runs on the CPU; skips where it cannot be compiled.

    It finds no cublasLt: a real one, where the machine has it, has no use for the CPU's memory.
    """
    library = compile_on_cpu([*KERNELS.glob("*.cu"), *KERNELS.glob("*.cpp")], "trtllm_ext_kernels")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TRTLLM_EXT_CUBLASLT", os.devnull)
        yield library


@pytest.fixture(scope="session")
def _fake_cublaslt() -> FakeCublasLt:
    return FakeCublasLt()


@pytest.fixture
def fake_cublaslt(kernels_on_cpu, _fake_cublaslt, monkeypatch) -> Iterator[FakeCublasLt]:
    """A cublasLt on the CPU that plans find, its knobs as they were made."""
    monkeypatch.setenv("TRTLLM_EXT_CUBLASLT", str(_fake_cublaslt.path))
    _fake_cublaslt.reset()
    yield _fake_cublaslt
    # Whatever a test did: what cublasLt made is given back, and no algorithm met operands that it cannot read.
    assert _fake_cublaslt.get("live") == 0
    assert _fake_cublaslt.get("broken_promises") == 0


@pytest.fixture(scope="session", params=RELEASES)
def played(request) -> Played:
    """The program that plays TensorRT's part, and a plugin library whose kernels run on the CPU, for each release."""
    headers_of(request.param)
    pytest.importorskip("torch", reason="the references are computed with PyTorch")
    return build_on_cpu(request.param, request.getfixturevalue("kernels_on_cpu"))


@pytest.fixture
def play(played, tmp_path) -> Session:
    """Scripts for that program."""
    return Session(played.program, played.library, tmp_path)
