"""This package over a `tensorrt_llm` that we made ourselves (`small_tensorrt_llm.py`): what `test_case_one.py` checks
with the real source, as far as that goes without it. In a process of its own, which uses that graph API from the start.
"""

import pytest
import references
from own_process import assert_passed, environment
from stack_forms import TABLE

BUDGET_S = 8

# Each thing that TensorRT-LLM does otherwise is in one of them.
FORMS = (
    "gpt2", "norm_without_weights", "mixture_renormalized", "every factor", "hyper_dynamic", "hyper_manifold",
    "wide sandwich",
)  # fmt: skip


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("answers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRTLLM_EXT_NUM_THREADS", "1")
        references.write(folder, ("float32",), FORMS)
        references.write(folder, ("bfloat16",), FORMS[:1])
    return folder


def test_the_interface_holds(answers, tmp_path):
    assert set(FORMS) <= set(TABLE)
    env = environment(TENSORRT_LLM_ANSWERS=str(answers))
    assert_passed("interface/check_interface.py", "small_tensorrt_llm", tmp_path, env)
