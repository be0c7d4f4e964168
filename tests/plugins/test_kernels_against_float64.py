"""Every kernel against float64 on the CPU, through the stand-in for CUDA: the small half of tests/on_gpu."""

import pytest
from kernel_cases import SMALL
from kernel_refusals import REFUSALS, check_dry_run, check_refused, refusal_id

from trtllm_ext.plugin.kernels import load_kernels

BUDGET_S = 8


@pytest.fixture(scope="module")
def lab(kernels_on_cpu):
    pytest.importorskip("torch", reason="the references are computed with PyTorch")
    from kernel_checks import Lab

    return Lab(load_kernels(kernels_on_cpu), "cpu")


@pytest.mark.parametrize("case", SMALL["residual_norm"], ids=str)
def test_residual_norm(lab, case):
    from kernel_checks import check_residual_norm

    check_residual_norm(lab, case)


@pytest.mark.parametrize("case", SMALL["gated_activation"], ids=str)
def test_gated_activation(lab, case):
    from kernel_checks import check_gated_activation

    check_gated_activation(lab, case)


@pytest.mark.parametrize("case", SMALL["feed_forward"], ids=str)
def test_feed_forward(lab, case):
    from kernel_checks import check_feed_forward

    check_feed_forward(lab, case)


@pytest.mark.parametrize("refusal", REFUSALS, ids=refusal_id)
def test_refused(lab, refusal):
    check_refused(lab, refusal)


def test_no_tokens_are_no_work(lab):
    check_dry_run(lab)
