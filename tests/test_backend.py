"""The choice of engine and graph API, over stand-ins for NVIDIA's packages."""

import os
import subprocess
import sys
import textwrap

import pytest

BUDGET_S = 20

REAL_TENSORRT = "class Builder: pass\n__version__ = '10.14.1'\n"
LLM_WITH_PATH = "def net_guard(network): pass\n__version__ = '1.2.1'\n"
LLM_WITHOUT_PATH = "__version__ = '1.3.0'\n"
DEVICE = "backend.cuda_device_count = lambda: 1"
NO_DRIVER = "backend.cuda_device_count = lambda: None"


def ask(tmp_path, packages, request="auto", device=NO_DRIVER, question="backend.choice()"):
    """Runs `question` in a process that sees stand-in packages first; the answer's text, or the error's."""
    for name, source in packages.items():
        (tmp_path / f"{name}.py").write_text(source)
    program = textwrap.dedent(f"""
        from trtllm_ext import backend
        from trtllm_ext.errors import TrtllmExtError
        {device}
        try:
            print({question})
        except TrtllmExtError as error:
            print("refused:", error)
    """)
    environment = {"PYTHONPATH": str(tmp_path), "TRTLLM_EXT_BACKEND": request, "PATH": ""}
    run = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    return run.stdout


def test_nothing_from_nvidia_means_the_embedded_engine(tmp_path):
    answer = ask(tmp_path, {"tensorrt": "raise ImportError('libnvinfer.so.10: cannot open')"})
    assert "engine='embedded'" in answer
    assert "does not import (libnvinfer.so.10: cannot open)" in answer


def test_tensorrt_without_a_device_means_the_embedded_engine(tmp_path):
    answer = ask(tmp_path, {"tensorrt": REAL_TENSORRT})
    assert "engine='embedded'" in answer
    assert "tensorrt 10.14.1 is installed but no NVIDIA driver is loaded" in answer


@pytest.mark.parametrize(
    ("llm", "graph", "why"),
    [
        ({}, "trtllm_ext", "tensorrt_llm is not installed"),
        ({"tensorrt_llm": LLM_WITH_PATH}, "tensorrt_llm", "has its TensorRT path"),
        ({"tensorrt_llm": LLM_WITHOUT_PATH}, "trtllm_ext", "has no TensorRT path"),
        ({"tensorrt_llm": "raise OSError('libnccl.so.2')"}, "trtllm_ext", "does not import (libnccl.so.2)"),
    ],
)
def test_the_graph_api_is_chosen_by_capability(tmp_path, llm, graph, why):
    answer = ask(tmp_path, {"tensorrt": REAL_TENSORRT, **llm}, device=DEVICE)
    assert "engine='tensorrt'" in answer
    assert f"graph='{graph}'" in answer
    assert why in answer


def test_an_installer_stub_is_not_a_tensorrt(tmp_path):
    answer = ask(tmp_path, {"tensorrt": "__version__ = '10'"}, device=DEVICE)
    assert "engine='embedded'" in answer
    assert "has no Builder" in answer


def test_embedded_can_be_asked_for_beside_a_real_tensorrt(tmp_path):
    answer = ask(tmp_path, {"tensorrt": REAL_TENSORRT}, request="embedded", device=DEVICE)
    assert "engine='embedded'" in answer


def test_asking_for_an_absent_tensorrt_is_refused_with_the_way_out(tmp_path):
    answer = ask(tmp_path, {"tensorrt": "raise ImportError('gone')"}, request="tensorrt")
    assert answer.startswith("refused: TRTLLM_EXT_BACKEND=tensorrt, but the package tensorrt does not import")
    assert "TRTLLM_EXT_BACKEND=embedded" in answer


def test_an_unknown_request_is_refused_with_the_known_ones(tmp_path):
    assert ask(tmp_path, {}, request="cuda").strip() == (
        "refused: TRTLLM_EXT_BACKEND='cuda' is not known; it takes one of auto, tensorrt, embedded."
    )


def test_the_module_in_use_is_the_embedded_one():
    from trtllm_ext import backend

    assert backend.tensorrt().__name__ == "trtllm_ext.embedded"


def test_threads_that_ask_first_at_the_same_time_get_the_whole_module():
    """An import that has begun in one thread is waited for in the others."""
    program = (
        "import threading; from trtllm_ext import backend\n"
        "barrier, names = threading.Barrier(4), []\n"
        "def ask():\n"
        "    barrier.wait(); names.append(backend.tensorrt().ILogger.__name__)\n"
        "threads = [threading.Thread(target=ask) for _ in range(4)]\n"
        "[thread.start() for thread in threads]; [thread.join() for thread in threads]\n"
        "assert names == ['ILogger'] * 4, names\n"
    )
    environment = {**os.environ, "TRTLLM_EXT_BACKEND": "embedded"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
