"""This package over a `tensorrt_llm` that we made ourselves (`small_tensorrt_llm.py`): what `test_case_one.py` checks
with the real source, as far as that goes without it. In a process of its own, which uses that graph API from the start.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import references
from stack_forms import TABLE

BUDGET_S = 8

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
# Each thing that TensorRT-LLM does otherwise is in one of them.
FORMS = (
    *(
        "gpt2",
        "norm_without_weights",
        "mixture_renormalized",
        "every factor",
        "hyper_dynamic",
        "hyper_manifold",
    ),
    "wide sandwich",
)


@pytest.fixture(scope="module")
def answers(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("answers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRTLLM_EXT_NUM_THREADS", "1")
        references.write(folder, ("float32",), FORMS)
        references.write(folder, ("bfloat16",), FORMS[:1])
    return folder


def test_the_interface_holds(answers, tmp_path):
    assert set(FORMS) <= set(TABLE)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "small_tensorrt_llm",
        "-p",
        "no:hypothesispytest",
        "--noconftest",
    ]
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
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (HERE, ROOT))),
        "TRTLLM_EXT_NUM_THREADS": "1",
        "TENSORRT_LLM_ANSWERS": str(answers),
    }
    environment.pop("TRTLLM_EXT_BACKEND", None)
    done = subprocess.run(
        [*command, "--rootdir", str(HERE), str(HERE / "interface" / "check_interface.py")],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
