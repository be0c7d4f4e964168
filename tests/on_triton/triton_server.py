"""A real Triton server for tests: the one that NVIDIA's package nvidia-pytriton brings, with its Python backend alone.

Its backend for ONNX Runtime is in NVIDIA's images only. So what an export wrote is served with two lines of
config.pbtxt changed: `backend`, and `default_model_filename` to a few lines of Python (MODEL) that run model.onnx in
ONNX Runtime as the backend would: inputs of joined requests put together along the first dimension, outputs cut again.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
import venv
from contextlib import contextmanager
from pathlib import Path

import pytest

MODEL = """
import sys
sys.path.insert(0, {packages!r})
from pathlib import Path
import numpy as np
import onnxruntime
import triton_python_backend_utils as triton

class TritonPythonModel:
    def initialize(self, args):
        path = Path(args["model_repository"], args["model_version"], "model.onnx")
        self.name = args["model_name"]
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def execute(self, requests):
        feeds = {{
            each.name: [triton.get_input_tensor_by_name(request, each.name).as_numpy() for request in requests]
            for each in self.session.get_inputs()
        }}
        rows = [len(array) for array in next(iter(feeds.values()))]
        print("RUN", self.name, *rows, flush=True)
        joined = {{name: np.concatenate(arrays) if len(arrays) > 1 else arrays[0] for name, arrays in feeds.items()}}
        outputs = self.session.run(None, joined)
        names = [each.name for each in self.session.get_outputs()]
        parts = [np.split(each, np.cumsum(rows)[:-1]) if len(rows) > 1 else [each] for each in outputs]
        return [
            triton.InferenceResponse([
                triton.Tensor(name, np.ascontiguousarray(part[i])) for name, part in zip(names, parts)
            ])
            for i in range(len(requests))
        ]
"""


def install(folder):
    """nvidia-pytriton in an environment of its own, or a skip that says why there is none."""
    venv.create(folder, with_pip=True)
    pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet"]
    # Its Python backend was made for NumPy 1: under 2 every output is empty.
    environment = {name: value for name, value in os.environ.items() if name != "PIP_CONSTRAINT"}
    for words in (["--no-deps", "nvidia-pytriton==0.7.0"], ["numpy<2", "onnxruntime"]):
        done = subprocess.run([*pip, *words], env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no Triton server to be had: {done.stderr.strip()[-200:]}")
    [packages] = folder.glob("lib/python3*/site-packages")
    home = packages / "pytriton" / "tritonserver"
    stub = home / "python_backend_stubs" / f"{sys.version_info.major}.{sys.version_info.minor}"
    if not stub.is_dir():
        pytest.skip(f"nvidia-pytriton has no Python backend for {stub.name}")
    shutil.copytree(stub, home / "backends" / "python", dirs_exist_ok=True)
    return packages, home


def for_python_backend(repository, packages):
    """Change what was exported to the Python backend, as the module says."""
    for config in repository.glob("*/config.pbtxt"):
        text, count = re.subn('backend: "onnxruntime"', 'backend: "python"', config.read_text())
        text, files = re.subn('filename: "model.onnx"', 'filename: "model.py"', text)
        assert (count, files) == (1, 1), config
        config.write_text(text)
        for version in config.parent.glob("[1-9]*"):
            (version / "model.py").write_text(MODEL.format(packages=str(packages)))


def _free_ports(count):
    """Ports that nobody has; held together, so that they differ."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


def _is_ready(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


@contextmanager
def serving(repository, home, log):
    """(HTTP address, gRPC address, what the server has printed so far) while the server runs."""
    http, grpc, metrics = _free_ports(3)
    command = [
        home / "bin" / "tritonserver",
        f"--model-repository={repository}",
        f"--backend-directory={home / 'backends'}",
        *(f"--{name}-address=127.0.0.1" for name in ("http", "grpc")),
        *(f"--{name}-port={port}" for name, port in (("http", http), ("grpc", grpc), ("metrics", metrics))),
    ]
    libraries = f"{sysconfig.get_config_var('LIBDIR')}:{os.environ.get('LD_LIBRARY_PATH', '')}"
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, env={**os.environ, "LD_LIBRARY_PATH": libraries}
        )
        try:
            deadline = time.monotonic() + 60
            # It says that it has started a little before it listens.
            while not _is_ready(http):
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            yield f"127.0.0.1:{http}", f"127.0.0.1:{grpc}", lambda: Path(log).read_text()
        finally:
            process.terminate()
            process.wait(timeout=30)
