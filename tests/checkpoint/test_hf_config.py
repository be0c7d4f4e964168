"""Fields of a config.json: what null stands for, and what is said of an activation that nobody knows."""

from pathlib import Path

import pytest

from trtllm_ext.checkpoint.convert.hf_config import HfConfig
from trtllm_ext.errors import CheckpointError

BUDGET_S = 1


def config(**fields):
    return HfConfig(Path("config.json"), fields)


def test_a_flag_that_is_null_is_false_or_refused():
    assert config().flag("parallel", True) is True
    assert config(parallel=None).flag("parallel", False) is False
    for default in ((True,), ()):
        with pytest.raises(CheckpointError, match=r"parallel"):
            config(parallel=None).flag("parallel", *default)


def test_a_fixed_flag_that_is_null_is_false_or_refused():
    config().fixed("parallel", True)
    config(parallel=None).fixed("parallel", False)
    with pytest.raises(CheckpointError, match="parallel=None is not supported; expected True"):
        config(parallel=None).fixed("parallel", True)


def test_other_fields_take_null_for_missing():
    assert config(n_inner=None).size("n_inner", 12) == 12
    with pytest.raises(CheckpointError, match="lacks n_embd"):
        config(n_embd=None).size("n_embd")


def test_an_unknown_activation_is_told_the_nearest_ones_and_what_they_mean():
    with pytest.raises(
        CheckpointError, match=r"act='gelu_ne' is not known. Did you mean gelu_new \(gelu_tanh\) or"
    ) as e:
        config(act="gelu_ne").activation("act")
    assert "silu" not in str(e.value)


@pytest.mark.parametrize("value", ["snake", 3, ["gelu"]])
def test_an_activation_like_none_is_told_all_of_them(value):
    with pytest.raises(
        CheckpointError, match=r"is not known. Known, .* each means: gelu \(gelu_erf\), .* linear"
    ):
        config(act=value).activation("act")
