"""Our layers and models on TensorRT-LLM's own source: its functional, Module, trtllm-build, Session and models.

Runs where TENSORRT_LLM_SOURCE names a checkout of TensorRT-LLM 0.16 (the folder that holds `tensorrt_llm`), of which
nothing is compiled or changed; `case_one.py` says what stands in for its compiled parts. The checks are in `checks/`;
each of their files runs in a process of its own, since the stand-ins are for all of a process.
"""

import os
import subprocess
import sys

import pytest
from own_process import HERE, assert_passed, environment

# Of a run by hand. The default tests have no source, and take none of it.
BUDGET_S = 90

SOURCE = os.environ.get("TENSORRT_LLM_SOURCE", "")

pytestmark = pytest.mark.skipif(
    not SOURCE, reason="TENSORRT_LLM_SOURCE does not name a checkout of TensorRT-LLM 0.16"
)


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Checkpoints of all forms and what the embedded engine answers through our own graph API."""
    pytest.importorskip("polygraphy", reason="polygraphy is not installed, whose memory is stood in for")
    pytest.importorskip("psutil", reason="psutil is not installed, which trtllm-build imports")
    folder = tmp_path_factory.mktemp("answers")
    subprocess.run([sys.executable, HERE / "references.py", folder], check=True, env=environment())
    return folder


@pytest.mark.parametrize("checks", sorted(each.name for each in HERE.glob("checks/check_*.py")))
def test_checks(checks, answers, tmp_path):
    env = environment(SOURCE, TENSORRT_LLM_ANSWERS=str(answers))
    assert_passed(f"checks/{checks}", "case_one", tmp_path, env)
