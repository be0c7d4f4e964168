"""What the gRPC side does with calls: those that wait hold no more memory than all requests may."""

import asyncio
import subprocess
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest

from trtllm_ext.serve.held import Held
from trtllm_ext.serve.refused import RefusalError
from trtllm_ext.serve.runner import TensorSpec

BUDGET_S = 4

SPECS = {"x": TensorSpec(name="x", datatype="FP32", shape=(-1,))}
X = np.arange(2000, dtype=np.float32)


class Plane:
    """Runs nothing until `free` is set; the outputs are the inputs."""

    is_leaving = False

    def __init__(self):
        self.free = asyncio.Event()

    async def model(self, name, version):
        return SimpleNamespace(name=name, input_specs=SPECS, output_specs=SPECS)

    async def run(self, model, arrays):
        await self.free.wait()
        return arrays

    def told(self, problem):
        assert isinstance(problem, RefusalError)
        return problem


class Context:
    async def abort(self, code, details):
        raise RuntimeError(f"{code.name}: {details}")


def message(grpc_service):
    made = grpc_service.pb.ModelInferRequest(model_name="m")
    made.inputs.add(name="x", datatype="FP32", shape=X.shape)
    made.raw_input_contents.append(X.tobytes())
    return made


async def ask():
    from trtllm_ext.serve import grpc_service

    plane = Plane()
    service = grpc_service.InferenceService(
        plane, Held(4000)
    )  # eight times this are three of the message, not four

    async def four():
        calls = [asyncio.create_task(service.ModelInfer(message(grpc_service), Context())) for _ in range(4)]
        await asyncio.sleep(0.01)
        plane.free.set()
        return await asyncio.gather(*calls, return_exceptions=True)

    for _ in range(2):  # what is answered is held no longer
        plane.free.clear()
        *answers, refused = await four()
        assert str(refused).startswith("RESOURCE_EXHAUSTED: requests that are being read or run have 32"), (
            refused
        )
        for answer in answers:
            assert answer.raw_output_contents[0] == X.tobytes()


@pytest.mark.skipif(find_spec("mlserver") is None, reason="mlserver is not installed")
def test_calls_that_wait_hold_so_much_and_no_more():
    # In a process of its own: mlserver's messages and tritonclient's have the same names.
    ended = subprocess.run([sys.executable, __file__], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


if __name__ == "__main__":
    asyncio.run(ask())
