import pytest

from trtllm_ext import backend


@pytest.fixture(scope="session")
def real_tensorrt():
    found = backend.probe_tensorrt()
    if found.module is None:
        pytest.skip(f"NVIDIA's TensorRT is needed: {found.detail}")
