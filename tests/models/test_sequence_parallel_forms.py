"""Every form of SublayerStack with its tokens dealt out to the ranks, against the formulas, which know of no ranks."""

import pytest
from sampling import thinned
from stack_forms import TABLE
from stack_on_ranks import check_form

BUDGET_S = 8

pytestmark = pytest.mark.usefixtures("one_thread")


# The other forms' neighbours run in test_tensor_parallel_forms.py and test_forms_on_mpi.py by default.
@pytest.mark.parametrize("name", thinned(TABLE, first=3))
def test_on_2_ranks(tmp_path, name):
    # 9 tokens: the last one stands in for a tenth.
    check_form(tmp_path, name, 2, sequence_parallel=True)


@pytest.mark.long
@pytest.mark.parametrize("size", [4, 8])
@pytest.mark.parametrize("name", TABLE)
def test_on_more_ranks(tmp_path, name, size):
    check_form(tmp_path, name, size, layers=2, sequence_parallel=True)
