"""Sessions over device memory. The device is a stand-in: the same copies, between two places of the host.

With it the embedded engine plays TensorRT's part, so that what goes to a device and comes back is seen to be right
where there is none.
"""

import sys

import numpy as np
import pytest
from fake_devices import Counted, FakeDriver, HostDevice, torch_on_the_host
from small_engines import HIDDEN, build, packed

import trtllm_ext as tx
from trtllm_ext.errors import InputError
from trtllm_ext.graph import functional
from trtllm_ext.runtime import cuda, memory, session
from trtllm_ext.runtime.cuda_python import CudaPythonBuffers
from trtllm_ext.runtime.cuda_torch import TorchBuffers

BUDGET_S = 10


@pytest.fixture(params=["host", "torch", "cuda-python"])
def device(request, monkeypatch):
    """The stand-in itself, then each implementation over what plays its library."""
    if request.param == "torch":
        made = Counted(TorchBuffers(torch_on_the_host(pytest.importorskip("torch")), "cpu"))
    elif request.param == "cuda-python":
        made = Counted(CudaPythonBuffers(FakeDriver()))
    else:
        made = Counted(HostDevice())
    monkeypatch.setattr(cuda, "device_buffers", lambda: made)
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


def test_a_run_ends_before_its_copies_are_written_again(engine, device):
    """Each run that used a copy is waited for on its stream, though its outputs stayed on the device."""
    made = tx.Session.from_serialized_engine(engine)
    for count in (1, 2, 3):
        made._memory.take(made._bindings.inputs["x"], tokens(4))
        made._memory.finish({}, 7)
        assert device.streams == [7] * count
    made._memory.finish({}, 7)
    assert len(device.streams) == 3
