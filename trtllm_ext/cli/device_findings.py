"""What `trtllm-ext doctor` says of the NVIDIA device, its compiler, and how sessions reach its memory."""

import shutil
import subprocess
from collections.abc import Iterator

from trtllm_ext import backend
from trtllm_ext.cli.finding import Finding
from trtllm_ext.errors import BackendError


def device_findings() -> Iterator[Finding]:
    yield from _cuda()
    yield from _device_buffers()


def _cuda() -> Iterator[Finding]:
    count = backend.cuda_device_count()
    if count:
        yield Finding("ok", "NVIDIA device", backend.describe_cuda())
    else:
        fix = "only for TensorRT engines: a machine with an NVIDIA GPU and its driver"
        yield Finding("absent", "NVIDIA device", backend.describe_cuda(), fix)
    compiler = shutil.which("nvcc")
    if compiler is None:
        yield Finding("absent", "nvcc", "for compiling plugins", "install the CUDA toolkit")
        return
    answer = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    release = [line for line in answer.stdout.splitlines() if "release" in line]
    yield Finding("ok", "nvcc", release[0].strip() if release else compiler)


def _device_buffers() -> Iterator[Finding]:
    """By which library sessions copy to the device and back."""
    from trtllm_ext.runtime.cuda import WAYS_TO_BUFFERS, device_buffers

    try:
        engine = backend.choice().engine
    except BackendError:  # told as a problem of the engine
        return
    if engine == "embedded":
        yield Finding("ok", "device buffers", "none needed: the embedded engine works in host memory")
        return
    try:
        yield Finding("ok", "device buffers", f"through {device_buffers().library}")
    except BackendError as error:
        yield Finding("problem", "device buffers", str(error), f"one of: {'; '.join(WAYS_TO_BUFFERS)}")
