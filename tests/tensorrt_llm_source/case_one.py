"""A pytest plugin: TensorRT is in use with TensorRT-LLM's graph API, as far as this package can tell.

The embedded engine stands at `tensorrt`, TensorRT-LLM's source is imported with stand-ins for its compiled parts, a
driver answers that there is a device, and device memory is the host's.
"""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
os.environ["TRT_LLM_NO_LIB_INIT"] = "1"
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "runtime")]

import stand_ins  # noqa: E402

stand_ins.install()

from fake_devices import HostDevice  # noqa: E402
from small_driver import Driver  # noqa: E402

from trtllm_ext import backend  # noqa: E402
from trtllm_ext.runtime import cuda  # noqa: E402

backend.cuda_driver = Driver
cuda.device_buffers = HostDevice


def pytest_sessionstart(session):
    choice = backend.choice()
    assert (choice.engine, choice.graph) == ("tensorrt", "tensorrt_llm"), choice.reasons
