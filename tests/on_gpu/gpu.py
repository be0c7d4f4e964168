"""Whether kernels can be tried here, and with what; otherwise why not, in a skip's reason."""

import pytest

from trtllm_ext.errors import BackendError, KernelError
from trtllm_ext.plugin.kernels import load_kernels


def kernels_or_skip():
    """The library of kernels, on a machine with a GPU that it has code for; the whole file is skipped otherwise."""
    try:
        kernels = load_kernels()
        kernels.check_device()
    except (BackendError, KernelError) as reason:
        pytest.skip(f"no GPU to try the kernels on: {reason}", allow_module_level=True)
    torch = pytest.importorskip("torch", reason="tests on a GPU need PyTorch with CUDA")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA: tests on a GPU need one that has", allow_module_level=True)
    return kernels


def lab_or_skip():
    """As `kernels_or_skip`, with the current GPU."""
    kernels = kernels_or_skip()
    from kernel_checks import Lab

    return Lab(kernels, "cuda")
