"""Every form of SublayerStack on several ranks, threads of this process, against the formulas.

Of 8 ranks each has 5 of 40 inner features. By default every fourth form runs, whose neighbours run as processes or with
their tokens dealt out; the others, other numbers of ranks, and two layers are among the long tests.
"""

import pytest
from sampling import thinned
from stack_forms import TABLE
from stack_on_ranks import check_form

BUDGET_S = 8

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", thinned(TABLE, first=1))
def test_on_eight_ranks(tmp_path, name):
    check_form(tmp_path, name, 8)


@pytest.mark.long
@pytest.mark.parametrize("size", [2, 4, 8])
@pytest.mark.parametrize("name", TABLE)
def test_two_layers(tmp_path, name, size):
    check_form(tmp_path, name, size, layers=2)
