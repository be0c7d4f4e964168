"""The hints for mistyped names."""

import pytest

from trtllm_ext.suggest import did_you_mean, nearest

BUDGET_S = 5

KNOWN = ("relu", "silu", "tanh")


@pytest.mark.parametrize(
    ("name", "asked", "told"),
    [
        ("reul", "Did you mean relu?", "Did you mean relu?"),
        ("sillu", "Did you mean silu?", "Did you mean silu?"),
        ("zebra", "", "Known: relu, silu, tanh."),
        (None, "", "Known: relu, silu, tanh."),
    ],
)
def test_hints(name, asked, told):
    assert did_you_mean(name, KNOWN) == asked
    assert nearest(name, iter(KNOWN)) == told
