"""A pytest plugin: TensorRT-LLM's unit tests over the embedded engine, each with what came of it. See run.py."""

import json
import os
import re
import sys
from pathlib import Path

import pytest

os.environ["TRT_LLM_NO_LIB_INIT"] = "1"
sys.path.insert(0, str(Path(__file__).parent))

import stand_ins

stand_ins.install()

# What a test that leaves TensorRT's own layers ends with. The first that is found in its report is the reason.
REASONS = (
    ("states the memory of a GPU's engine", r"activation memory usage is (better|worse) than"),
    (
        "needs a compiled plugin",
        r"plg_creator|plugin_creator|_load_plugin_lib|libnvinfer_plugin_tensorrt_llm",
    ),
    ("needs a compiled operator", r"torch\.ops\.|_OpNamespace|_OpPackages"),
    ("needs compiled bindings", r"tensorrt_llm[./]bindings|stand_ins\.py"),
    ("needs a GPU kernel in its reference", r"triton|causal_conv1d|CUDA driver|CUDA error|no kernel image"),
    ("needs a model or data from the network", r"LLM_MODELS_ROOT|llm_models_root|huggingface_hub"),
)


def pytest_runtest_logreport(report):
    if report.when != "call" and report.outcome == "passed":
        return
    text = str(report.longrepr)
    outcome, why = report.outcome, ""
    if outcome == "failed":
        outcome = next((name for name, pattern in REASONS if re.search(pattern, text)), "failed")
        why = text.strip().splitlines()[-1] if text.strip() else ""
        found = [line for line in text.splitlines() if line.startswith("E  ")]
        why = (found[0][1:] if found else why).strip()
    elif outcome == "skipped":
        why = str(report.longrepr[-1]) if isinstance(report.longrepr, tuple) else text
    _write({"test": report.nodeid, "outcome": outcome, "why": why[:300]})


def pytest_collectreport(report):
    if report.outcome == "failed":
        text = str(report.longrepr)
        reason = next((name for name, pattern in REASONS if re.search(pattern, text)), "does not import")
        why = [line for line in text.splitlines() if line.startswith("E  ")]
        _write({"test": report.nodeid, "outcome": reason, "why": (why[0][1:].strip() if why else "")[:300]})


def _write(line):
    with Path(os.environ["TENSORRT_LLM_REPORT"]).open("a", encoding="utf-8") as out:
        out.write(json.dumps(line) + "\n")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    import torch

    torch.manual_seed(0)
