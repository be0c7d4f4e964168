"""Plans on a GPU: choices that are kept and taken, threads that share one, cublasLt that is there."""

import threading

import pytest
from gpu import lab_or_skip
from kernel_cases import GATED, FeedForwardCase

LAB = lab_or_skip()

import kernel_formulas as formulas  # noqa: E402
import torch  # noqa: E402
from kernel_buffers import bits  # noqa: E402
from kernel_checks import feed_forward_call, form_of, workspace_for  # noqa: E402

from trtllm_ext.errors import KernelError  # noqa: E402
from trtllm_ext.plugin.feed_forward_plan import FeedForwardPlan  # noqa: E402

BUDGET_S = 30

CASE = FeedForwardCase(num_tokens=65, hidden=1024, ffn=2048, dtype="bfloat16", activation="silu", parts=GATED)


def run(plan, arguments):
    y = torch.full_like(arguments["y"], float("nan"))
    given = {**arguments, "y": y}
    plan.run(**given, workspace=workspace_for(LAB, plan, CASE.num_tokens), stream=LAB.stream)
    torch.cuda.synchronize()
    return y


def tuned_plan(arguments):
    plan = FeedForwardPlan(LAB.kernels, form_of(CASE))
    plan.tune(**arguments, workspace=workspace_for(LAB, plan, CASE.num_tokens), stream=LAB.stream)
    return plan


def test_choices_come_back():
    _, arguments, _ = feed_forward_call(LAB, CASE)
    with tuned_plan(arguments) as plan, FeedForwardPlan(LAB.kernels, form_of(CASE)) as other:
        choices = plan.choices()
        assert other.take_choices(choices) > 0
        assert other.describe(CASE.num_tokens) == plan.describe(CASE.num_tokens)
        assert torch.equal(bits(run(plan, arguments)), bits(run(other, arguments)))
        with pytest.raises(KernelError):
            other.take_choices(choices[: len(choices) // 2])
        damaged = bytearray(choices)
        damaged[len(damaged) // 2] ^= 255
        with pytest.raises(KernelError):
            other.take_choices(bytes(damaged))


def test_threads_share_a_plan():
    _, arguments, inputs = feed_forward_call(LAB, CASE)
    wanted, errors = formulas.feed_forward(inputs, by_cublaslt=True, activation="silu"), []

    def work(plan):
        with torch.cuda.stream(torch.cuda.Stream()):
            errors.extend(formulas.relative_error(run(plan, arguments), wanted) for _ in range(20))

    torch.cuda.synchronize()  # the inputs were made on another stream than the threads'
    with FeedForwardPlan(LAB.kernels, form_of(CASE)) as plan:
        threads = [threading.Thread(target=work, args=(plan,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(errors) == 160
    assert max(errors) <= 4e-3


def test_products_are_cublaslts():
    with FeedForwardPlan(LAB.kernels, form_of(CASE)) as plan:
        assert "cublaslt" in str(plan.describe(CASE.num_tokens)).lower()
