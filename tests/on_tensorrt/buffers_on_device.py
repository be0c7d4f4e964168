"""Device buffers on a real GPU, by each library that is here; TensorRT is not needed.

    PYTHONPATH=. python tests/on_tensorrt/buffers_on_device.py

One line a check and library; the exit code is the number of libraries that failed or are missing. The driver, the
runtime that torch brings, and cuda-python each know the device by themselves, so they are compared with each other.
"""

import sys
import threading
import time
from collections.abc import Callable

import numpy as np

from trtllm_ext import backend
from trtllm_ext.errors import BackendError
from trtllm_ext.runtime import cuda
from trtllm_ext.runtime.cuda import DeviceBuffers

SIZES = (0, 1, 5, 4096, (64 << 20) + 3)


def carries_bytes(buffers: DeviceBuffers) -> str:
    rng = np.random.default_rng(0)
    for size in SIZES:
        sent, got = rng.integers(0, 256, size, np.uint8), np.zeros(size, np.uint8)
        pointer = buffers.allocate(size)
        assert pointer
        if size:
            buffers.upload(pointer, sent.ctypes.data, size)
            buffers.download(got.ctypes.data, pointer, size)
        buffers.free(pointer)
        np.testing.assert_array_equal(got, sent)
    return f"{len(SIZES)} sizes up to {SIZES[-1]} bytes"


def serves_other_threads(buffers: DeviceBuffers) -> str:
    problems: list[BaseException] = []

    def use() -> None:
        try:
            carries_bytes(buffers)
            buffers.synchronize(0)
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems, problems
    return "three threads at once"


def says_what_is_too_much(buffers: DeviceBuffers) -> str:
    try:
        buffers.allocate(1 << 50)
    except BackendError as sentence:
        return str(sentence)[:150]
    raise AssertionError("2**50 bytes were given")


def waits_for_a_stream(buffers: DeviceBuffers) -> str:
    """Work on a stream of torch's, which knows nothing of the default stream, is done after `synchronize`."""
    import torch

    side = torch.cuda.Stream()
    size = 1 << 20
    pointer = buffers.allocate(size)
    ones = np.ones(size, np.uint8)
    buffers.upload(pointer, ones.ctypes.data, size)
    target = _tensor_at(pointer, size)
    got = np.zeros(size, np.uint8)
    target.add_(0)  # the first launch of a kernel loads it, which may wait for all that runs
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(1_000_000_000)
        target.add_(6)
    started = time.monotonic()
    buffers.synchronize(side.cuda_stream)
    waited = time.monotonic() - started
    buffers.download(got.ctypes.data, pointer, size)
    buffers.free(pointer)
    assert waited > 0.05, f"the stream was busy, and was waited for {waited} s"
    np.testing.assert_array_equal(got, 7)
    return f"waited {waited:.2f} s for it"


def _tensor_at(pointer: int, nbytes: int):
    """A torch tensor over device memory of anybody's."""
    import torch

    class Memory:
        __cuda_array_interface__ = {  # noqa: RUF012
            "shape": (nbytes,),
            "typestr": "|u1",
            "data": (pointer, False),
            "version": 2,
        }

    return torch.as_tensor(Memory(), device="cuda")


def grows_and_frees(buffers: DeviceBuffers) -> str:
    copies = cuda.DeviceCopies.__new__(cuda.DeviceCopies)
    copies.cuda, copies._buffers = buffers, {}
    first = copies.room("x", 100)
    assert copies.room("x", 50) == first
    assert copies.room("x", 1 << 20)
    copies.close()
    assert not copies._buffers
    return "one buffer a name"


CHECKS: tuple[Callable[[DeviceBuffers], str], ...] = (
    carries_bytes,
    serves_other_threads,
    waits_for_a_stream,
    grows_and_frees,
    says_what_is_too_much,
    carries_bytes,
)


def main() -> int:
    failed = 0
    for name, opened in (("torch", cuda._of_torch), ("cuda-python", cuda._of_cuda_python)):
        try:
            buffers = opened()
            for check in CHECKS:
                sys.stdout.write(f"{buffers.library}: {check.__name__}: {check(buffers)}\n")
        except Exception as problem:  # a table of everything that happens
            sys.stdout.write(f"{name}: {type(problem).__name__}: {problem}\n")
            failed += 1
    sys.stdout.write(f"device_buffers() takes {cuda.device_buffers().library}; {backend.describe_cuda()}\n")
    return failed


if __name__ == "__main__":
    sys.exit(main())
