"""Every kernel against float64 on a GPU: token counts, widths, types, layouts, forms."""

import pytest
from gpu import lab_or_skip
from kernel_cases import LARGE

LAB = lab_or_skip()

import torch  # noqa: E402
from kernel_checks import check_feed_forward, check_gated_activation, check_residual_norm  # noqa: E402

BUDGET_S = 400


@pytest.fixture(autouse=True)
def no_error_is_left():
    """What a kernel did wrong shows at the next synchronisation: here, not in a later test."""
    yield
    torch.cuda.synchronize()


@pytest.mark.parametrize("case", LARGE["residual_norm"], ids=str)
def test_residual_norm(case):
    check_residual_norm(LAB, case)


@pytest.mark.parametrize("case", LARGE["gated_activation"], ids=str)
def test_gated_activation(case):
    check_gated_activation(LAB, case)


@pytest.mark.parametrize("case", LARGE["feed_forward"], ids=str)
def test_feed_forward(case):
    check_feed_forward(LAB, case)
