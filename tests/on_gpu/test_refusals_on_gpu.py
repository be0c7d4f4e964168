"""What the kernels refuse leaves no CUDA error behind: the next call of anybody works."""

import pytest
from gpu import lab_or_skip
from kernel_cases import NormCase
from kernel_refusals import REFUSALS, refusal_id

LAB = lab_or_skip()

import torch  # noqa: E402
from kernel_checks import check_residual_norm  # noqa: E402
from kernel_refusals import check_dry_run, check_refused  # noqa: E402

BUDGET_S = 60


@pytest.mark.parametrize("refusal", REFUSALS, ids=refusal_id)
def test_refused_without_a_trace(refusal):
    check_refused(LAB, refusal)
    torch.cuda.synchronize()
    assert torch.ones(3, device="cuda").sum().item() == 3
    check_residual_norm(LAB, NormCase(num_tokens=2, hidden=24, dtype="float16"))


def test_no_tokens_are_no_work():
    check_dry_run(LAB)


def test_refusals_inside_a_capture_leave_the_capture_whole():
    x, stream = torch.randn(4, 64, device="cuda", dtype=torch.float16), torch.cuda.Stream()
    total, normed = torch.full_like(x, float("nan")), torch.full_like(x, float("nan"))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for refusal in REFUSALS:
            if refusal[0] in ("residual_norm", "gated_activation"):
                _status_only(refusal)
        LAB.kernels.residual_norm(x, residual=x, norm="rms_norm", sum=total, normed=normed, stream=LAB.stream)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(total, x + x)
    assert not normed.isnan().any()


def _status_only(refusal):
    """The refusal without looking at memory, which would wait for the device."""
    from ctypes import byref, sizeof

    from trtllm_ext.plugin.c_interface import GatedActivationArgs, ResidualNormArgs

    structure = {"residual_norm": ResidualNormArgs, "gated_activation": GatedActivationArgs}[refusal[0]]
    args = structure(size=sizeof(structure), num_tokens=4)
    function = getattr(LAB.kernels.library, f"trtllm_ext_{refusal[0]}")
    assert function(byref(args), LAB.stream.cuda_stream) != 0
