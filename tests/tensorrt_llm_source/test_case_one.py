"""Our layers and models on TensorRT-LLM's own source: its functional, Module, trtllm-build, Session and models.

Runs where TENSORRT_LLM_SOURCE names a checkout of TensorRT-LLM 0.16 (the folder that holds `tensorrt_llm`), of which
nothing is compiled or changed; `case_one.py` says what stands in for its compiled parts. The checks are in `checks/`;
each of their files runs in a process of its own, since the stand-ins are for all of a process.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Without the source, which the default tests do not have, it takes none of it.
BUDGET_S = 90

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SOURCE = os.environ.get("TENSORRT_LLM_SOURCE")

pytestmark = pytest.mark.skipif(
    not SOURCE, reason="TENSORRT_LLM_SOURCE does not name a checkout of TensorRT-LLM 0.16"
)


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Checkpoints of all forms and what the embedded engine answers through our own graph API."""
    pytest.importorskip("polygraphy", reason="polygraphy is not installed, whose memory is stood in for")
    folder = tmp_path_factory.mktemp("answers")
    subprocess.run([sys.executable, HERE / "references.py", folder], check=True, env=_environment())
    return folder


def _environment(**more):
    paths = os.pathsep.join(map(str, (HERE, ROOT, *([SOURCE] if SOURCE else []))))
    return {**os.environ, "PYTHONPATH": paths, "TRTLLM_EXT_NUM_THREADS": "1", **more}


@pytest.mark.parametrize("checks", sorted(each.name for each in HERE.glob("checks/check_*.py")))
def test_checks(checks, answers, tmp_path):
    command = [sys.executable, "-m", "pytest", "-p", "case_one", "-p", "no:hypothesispytest", "--noconftest"]
    command += [
        "-p",
        "no:cacheprovider",
        "-q",
        "--tb=short",
        "--show-capture=no",
        "-W",
        "ignore",
        "-c",
        os.devnull,
    ]
    environment = _environment(TENSORRT_LLM_ANSWERS=str(answers))
    environment.pop("TRTLLM_EXT_BACKEND", None)
    done = subprocess.run(
        [*command, "--rootdir", str(HERE), str(HERE / "checks" / checks)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    sys.stdout.write(done.stdout[-2000:])
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
