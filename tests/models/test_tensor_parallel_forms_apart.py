"""Mixtures of experts and stacks of several streams on several ranks against the formulas.

The default tests take 8 ranks for known models' forms, a rank then having 5 of 40 inner features, and 4 for the others;
other numbers of ranks are among the long ones.
"""

import pytest
from stack_on_ranks import APART, check_form

from trtllm_ext.checkpoint import FORMS

BUDGET_S = 8

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", APART)
def test_on_many_ranks(tmp_path, name):
    check_form(tmp_path, name, 8 if name in FORMS else 4)


@pytest.mark.long
@pytest.mark.parametrize("size", [2, 4, 8])
@pytest.mark.parametrize("name", APART)
def test_two_layers(tmp_path, name, size):
    check_form(tmp_path, name, size, layers=2)
