"""10,000 replays of a CUDA graph give the same bits each time, over poisoned outputs and workspace."""

import pytest
from gpu import lab_or_skip
from kernel_cases import EVERYTHING, GATED, ActivationCase, FeedForwardCase, NormCase

LAB = lab_or_skip()

import torch  # noqa: E402
from kernel_buffers import bits  # noqa: E402
from kernel_checks import activation_call, feed_forward_call, form_of, norm_call, workspace_for  # noqa: E402

from trtllm_ext.plugin.feed_forward_plan import FeedForwardPlan  # noqa: E402

BUDGET_S = 120

REPLAYS = 10_000


def count_differences(call, outputs, scratch=()):
    """How many replays of `call`, each over poisoned outputs, gave other bits than the first run."""
    call()
    torch.cuda.synchronize()
    wanted = [bits(output).clone() for output in outputs]
    differences = torch.zeros((), dtype=torch.int64, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for each in (*outputs, *scratch):
            bits(each).fill_(-1)  # all ones: a NaN in every type that has one
        call()
        for output, right in zip(outputs, wanted, strict=True):
            differences += (bits(output) != right).any()
    for _ in range(REPLAYS):
        graph.replay()
    torch.cuda.synchronize()
    assert not any(output.double().isnan().any() for output in outputs)
    return int(differences)


@pytest.mark.parametrize(
    "case",
    [
        NormCase(num_tokens=32, hidden=4096, dtype="bfloat16"),
        NormCase(
            num_tokens=33, hidden=4095, dtype="float16", norm="layer_norm", layout="odd", quantized="int8"
        ),
        NormCase(num_tokens=3, hidden=40000, dtype="float32", quantized="float8_e4m3fn"),
    ],
    ids=str,
)
def test_residual_norm(case):
    _, arguments, _ = norm_call(LAB, case)
    names = ("sum", "normed", "quantized", "scales")
    outputs = [arguments[name] for name in names if name in arguments]
    assert count_differences(lambda: LAB.kernels.residual_norm(**arguments, stream=LAB.stream), outputs) == 0


def test_gated_activation():
    case = ActivationCase(num_tokens=33, width=1001, dtype="bfloat16", layout="halves")
    _, arguments, _ = activation_call(LAB, case)
    call = lambda: LAB.kernels.gated_activation(**arguments, stream=LAB.stream)  # noqa: E731
    assert count_differences(call, [arguments["output"]]) == 0


@pytest.mark.parametrize(
    "case",
    [
        FeedForwardCase(num_tokens=32, hidden=1024, ffn=4096, dtype="bfloat16", tuned=True),
        FeedForwardCase(
            num_tokens=17, hidden=512, ffn=1001, dtype="float16", activation="silu", parts=EVERYTHING
        ),
        FeedForwardCase(
            num_tokens=129, hidden=512, ffn=1024, dtype="bfloat16", activation="silu", parts=GATED
        ),
        FeedForwardCase(num_tokens=5, hidden=512, ffn=1024, dtype="float32"),
    ],
    ids=str,
)
def test_feed_forward(case):
    _, arguments, _ = feed_forward_call(LAB, case)
    with FeedForwardPlan(LAB.kernels, form_of(case)) as plan:
        workspace = workspace_for(LAB, plan, case.num_tokens)
        if case.tuned:
            plan.tune(**arguments, workspace=workspace, stream=LAB.stream)
        call = lambda: plan.run(**arguments, workspace=workspace, stream=LAB.stream)  # noqa: E731
        assert count_differences(call, [arguments["y"]], [workspace.view(torch.int8)]) == 0
