"""The libraries for device memory: which is taken, what each call does, and what is said where none can serve."""

import sys
import threading
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from fake_devices import FakeDriver, torch_on_the_host

from trtllm_ext.errors import BackendError
from trtllm_ext.runtime import cuda
from trtllm_ext.runtime.cuda_python import CudaPythonBuffers
from trtllm_ext.runtime.cuda_torch import TorchBuffers

BUDGET_S = 6


def there_and_back(buffers):
    """Bytes that went to the device and came back, longer pieces first and last."""
    pointers = [buffers.allocate(size) for size in (16, 0, 5)]
    sent = [np.arange(16, dtype=np.uint8), np.zeros(0, np.uint8), np.arange(5, dtype=np.uint8)[::-1].copy()]
    for pointer, array in zip(pointers, sent, strict=True):
        if array.size:
            buffers.upload(pointer, array.ctypes.data, array.nbytes)
    got = [np.zeros_like(array) for array in sent]
    for pointer, array in zip(pointers, got, strict=True):
        if array.size:
            buffers.download(array.ctypes.data, pointer, array.nbytes)
    part = np.zeros(7, np.uint8)
    buffers.download(part.ctypes.data, pointers[0], 4)
    for pointer in pointers:
        buffers.free(pointer)
    np.testing.assert_array_equal(part, [0, 1, 2, 3, 0, 0, 0])
    for one, other in zip(sent, got, strict=True):
        np.testing.assert_array_equal(one, other)


def test_torch_carries_bytes():
    there_and_back(TorchBuffers(torch_on_the_host(pytest.importorskip("torch")), "cpu"))


def test_torch_waits_for_copies_and_streams():
    torch = torch_on_the_host(pytest.importorskip("torch"))
    buffers = TorchBuffers(torch, "cpu")
    array = np.zeros(3, np.uint8)
    buffers.upload(buffers.allocate(3), array.ctypes.data, 3)
    assert torch.cuda.waited == ["current"]
    buffers.synchronize(0)
    buffers.synchronize(12)
    assert torch.cuda.waited == ["current", "default", 12]


def test_torch_says_what_failed():
    def refuse(*_, **__):
        raise RuntimeError("CUDA out of memory.\nmore lines")

    torch = torch_on_the_host(pytest.importorskip("torch"))
    torch.empty = refuse
    with pytest.raises(BackendError, match=r"7 bytes on cpu cannot be had: CUDA out of memory\.$"):
        TorchBuffers(torch, "cpu").allocate(7)


def test_cuda_python_carries_bytes():
    there_and_back(CudaPythonBuffers(FakeDriver()))


def test_cuda_python_in_a_thread_of_its_own():
    """A new thread has no context; the driver refuses every copy there until it has one."""
    buffers = CudaPythonBuffers(FakeDriver())
    problems = []

    def use():
        try:
            there_and_back(buffers)
            buffers.synchronize(0)
        except BaseException as problem:
            problems.append(problem)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert not problems


def test_cuda_python_keeps_to_the_context_there_is():
    driver = FakeDriver()
    driver.thread.context = 0xF00
    CudaPythonBuffers(driver).synchronize(0)
    assert driver.thread.context == 0xF00
    assert "cuDevicePrimaryCtxRetain" not in driver.calls


def test_cuda_python_says_what_failed():
    driver = FakeDriver()
    buffers = CudaPythonBuffers(driver)
    driver.fails["cuMemAlloc"] = 2
    with pytest.raises(BackendError, match=r"cuMemAlloc failed: out of memory \(CUDA error 2\)"):
        buffers.allocate(9)


@pytest.fixture
def installed(monkeypatch):
    """Decides which of the packages are there, and what they are."""

    def choose(**modules):
        names = ("torch", "cuda", "cuda.bindings", "cuda.bindings.driver", "cuda.cuda")
        for name in names:
            # None makes an import fail as that of a package that is not installed does.
            monkeypatch.setitem(sys.modules, name, modules.get(name.replace(".", "_")))

    return choose


def torch_with(device):
    current = {"is_available": lambda: device, "current_device": lambda: 1}
    return SimpleNamespace(
        __version__="2.9", cuda=SimpleNamespace(**current), device=lambda kind, index: f"{kind}:{index}"
    )


def cuda_python(driver):
    package, bindings = ModuleType("cuda"), ModuleType("cuda.bindings")
    package.__path__ = bindings.__path__ = []
    package.bindings, bindings.driver, bindings.__version__ = bindings, driver, "12.9"
    return {"cuda": package, "cuda_bindings": bindings, "cuda_bindings_driver": driver}


def test_torch_comes_first(installed):
    installed(torch=torch_with(True), **cuda_python(FakeDriver()))
    made = cuda.device_buffers()
    assert isinstance(made, TorchBuffers)
    assert (made.library, made._device) == ("torch 2.9", "cuda:1")


@pytest.mark.parametrize("torch", [None, torch_with(False)])
def test_cuda_python_where_torch_cannot(installed, torch):
    installed(torch=torch, **cuda_python(FakeDriver()))
    made = cuda.device_buffers()
    assert isinstance(made, CudaPythonBuffers)
    assert made.library == "cuda-python 12.9"
    there_and_back(made)


def test_an_older_cuda_python(installed):
    package = ModuleType("cuda")
    package.__path__, package.cuda, package.__version__ = [], FakeDriver(), "12.2"
    installed(cuda=package, cuda_cuda=package.cuda)
    assert cuda.device_buffers().library == "cuda-python 12.2"


def test_neither(installed):
    installed()
    with pytest.raises(BackendError) as caught:
        cuda.device_buffers()
    text = str(caught.value)
    assert "torch is not installed; cuda-python is not installed" in text
    assert "pip install torch" in text
    assert "pip install cuda-python" in text


def test_neither_can_serve(installed):
    class NoDriver:
        def cuInit(self, flags):  # noqa: N802
            raise RuntimeError("the library was not found\nsearched: everywhere")

    installed(torch=torch_with(False), **cuda_python(NoDriver()))
    with pytest.raises(BackendError) as caught:
        cuda.device_buffers()
    assert "torch 2.9 is installed, but finds no CUDA device (is it a build for CPUs?)" in str(caught.value)
    assert "finds no NVIDIA driver (the library was not found)" in str(caught.value)


def test_cuda_python_has_the_functions():
    """The real package, looked at: every function that is called here, with as many parameters."""
    driver = pytest.importorskip(
        "cuda.bindings.driver", reason="cuda-python is not installed", exc_type=ImportError
    )
    names = [name for name in dir(FakeDriver) if name.startswith("cu")]
    for name in names:
        given = getattr(FakeDriver, name).__code__.co_argcount - 1
        first = getattr(driver, name).__doc__.splitlines()[0]
        inside = first.partition("(")[2].rpartition(")")[0]
        assert len([each for each in inside.split(",") if each.strip()]) == given, first
