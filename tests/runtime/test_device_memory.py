"""Sessions over device memory. The device is a stand-in: the same copies, between two places of the host.

With it the embedded engine plays TensorRT's part, so that what goes to a device and comes back is seen to be right
where there is none.
"""

import ctypes
import sys

import numpy as np
import pytest
from small_engines import HIDDEN, build, packed

import trtllm_ext as tx
from trtllm_ext.errors import InputError
from trtllm_ext.graph import functional
from trtllm_ext.runtime import cuda, memory, session

BUDGET_S = 10


class HostDevice:
    """The driver's calls over host memory; counts what is done."""

    def __init__(self):
        self.buffers = {}
        self.uploads = self.downloads = self.synchronized = 0

    def allocate(self, nbytes):
        buffer = np.full(max(nbytes, 1) + 64, 0xAA, np.uint8)
        pointer = buffer.ctypes.data + (-buffer.ctypes.data) % 64
        self.buffers[pointer] = buffer
        return pointer

    def free(self, pointer):
        del self.buffers[pointer]

    def upload(self, pointer, address, nbytes):
        self.uploads += 1
        ctypes.memmove(pointer, address, nbytes)

    def download(self, address, pointer, nbytes):
        assert self.synchronized, "results were copied before the device was done"
        self.downloads += 1
        ctypes.memmove(address, pointer, nbytes)

    def synchronize(self, stream):
        self.synchronized += 1


@pytest.fixture
def device(monkeypatch):
    made = HostDevice()
    monkeypatch.setattr(cuda, "Cuda", lambda: made)
    monkeypatch.setattr(session, "HostMemory", memory.DeviceMemory)
    return made


def doubled():
    x = packed(ranges=((0, 4, 16),))
    functional.add(x, x).mark_output("y", "float32")


@pytest.fixture(scope="module")
def engine():
    return build(doubled)


def tokens(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, HIDDEN)).astype(np.float32)


def test_arrays_go_to_the_device_and_come_back(engine, device):
    with tx.Session.from_serialized_engine(engine) as made:
        for seed, count in enumerate((4, 4, 16, 1)):
            x = tokens(count, seed)
            np.testing.assert_array_equal(made.run({"x": x})["y"], 2 * x)
        assert (device.uploads, device.downloads) == (4, 4)
        # The same array with other contents is sent again.
        x[:] = 3
        np.testing.assert_array_equal(made.run({"x": x})["y"], 2 * x)
        y = np.zeros_like(x)
        assert made.run({"x": x}, {"y": y})["y"] is y
        np.testing.assert_array_equal(y, 2 * x)
        # One buffer a tensor, grown where needed.
        assert len(device.buffers) == 2
    assert not device.buffers


def test_empty_arrays_have_an_address(engine, device):
    made = tx.Session.from_serialized_engine(engine)
    assert made.run({"x": tokens(0)})["y"].shape == (0, HIDDEN)
    assert made.context.get_tensor_address("x") != 0


def test_torch_tensors_on_the_host(engine, device):
    torch = pytest.importorskip("torch")
    made = tx.Session.from_serialized_engine(engine)
    x = torch.from_numpy(tokens(3))
    y = made.run({"x": x})["y"]
    assert torch.equal(y, 2 * x)
    assert "torch" in sys.modules


def test_a_failed_run_leaves_no_copy_behind(engine, device):
    made = tx.Session.from_serialized_engine(engine)
    x, y = tokens(4), np.zeros((4, HIDDEN), np.float32)
    made.run({"x": x}, {"y": y})
    with pytest.raises(InputError):
        made.run({"x": tokens(17)}, {"y": y})
    before = y.copy()
    made.run({"x": 5 * x})
    np.testing.assert_array_equal(y, before)


def test_the_driver_is_asked_for_by_name():
    """Without a driver the reason is told; with one, its own error text would be."""
    from trtllm_ext.errors import BackendError

    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        with pytest.raises(BackendError, match="the NVIDIA driver library cannot be loaded"):
            cuda.Cuda()
    else:
        pytest.skip("this machine has an NVIDIA driver")
