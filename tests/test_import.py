"""Importing the package starts nothing and loads nothing heavy."""

import subprocess
import sys

BUDGET_S = 6

HEAVY = ("torch", "tensorrt", "tensorrt_llm", "mpi4py", "onnx", "onnxruntime", "transformers")


def modules_after(statement):
    program = f"import sys; {statement}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_import_loads_nothing_heavy():
    assert modules_after("import trtllm_ext") & set(HEAVY) == set()


def test_the_embedded_tensorrt_loads_neither_onnx_nor_onnxruntime():
    assert modules_after("import trtllm_ext.embedded") & set(HEAVY) == set()


def test_every_public_name_resolves():
    program = "import trtllm_ext; [getattr(trtllm_ext, name) for name in trtllm_ext.__all__]"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_defining_a_network_needs_no_torch():
    assert "torch" not in modules_after("from trtllm_ext.layers import FeedForward; FeedForward(8, 16)")
