"""SublayerStack of every form against the formulas, from a checkpoint of random weights, in each type."""

from dataclasses import fields, is_dataclass

import numpy as np
import pytest
from stack_forms import LAYER, OTHERS, TABLE, checkpoint, config_of, random_input, run
from stack_formulas import stack
from sublayer_formulas import DTYPES, TOLERANCE, assert_close

from trtllm_ext.checkpoint import FORMS, expected_weights
from trtllm_ext.models import model_from_config

BUDGET_S = 8

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERS = 2

# By default the types take turns.
CASES = [
    pytest.param(name, dtype, marks=[pytest.mark.long] * (dtype != [*DTYPES][i % 3]))
    for i, name in enumerate(FORMS)
    for dtype in DTYPES
]
# The types take turns among what is not a model's.
CASES += [
    (name, [*DTYPES][1 + i % 2 if name.startswith("wide") else i % len(DTYPES)])
    for i, name in enumerate(OTHERS)
]


def settled(form, x, weights, config, *more):
    """Which tokens no rounding sends to another expert: of a small change of the input, the output changes little."""
    changed = x * (1 + 4 * TOLERANCE[config.dtype] * np.random.default_rng(0).choice([-1, 1], x.shape))
    if form.mixture is None:
        return np.ones(len(x), bool)
    before, after = (stack(config, weights, each, *more) for each in (x, changed))
    return np.abs(after - before).max(-1) < 20 * TOLERANCE[config.dtype] * np.abs(before).max()


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_stack_from_a_checkpoint(tmp_path, name, dtype):
    # How layers follow each other is the same in each type; one of some forms takes a quarter of a second to build.
    layers = LAYERS if dtype == "float32" else 1
    config = config_of(TABLE[name], dtype, layers)
    weights, x = checkpoint(tmp_path / "c", config), random_input(config)
    got = run(tmp_path / "c", x)
    assert got.dtype == DTYPES[config.stream_dtype]
    wide = x.astype(np.float64)
    tokens = settled(TABLE[name], wide, weights, config)
    assert tokens.mean() > 0.5
    # Each sublayer adds its roundings.
    assert_close(got[tokens], stack(config, weights, wide)[tokens], dtype, factor=layers)


@pytest.mark.parametrize("name", TABLE)
def test_parameters_are_the_weights_that_a_checkpoint_holds(name):
    config = config_of(TABLE[name], final_norm=LAYER)
    parameters = {name: parameter.shape for name, parameter in model_from_config(config).named_parameters()}
    assert parameters == expected_weights(config)


def _values(part, seen, where=""):
    for field in fields(part):
        value, name = getattr(part, field.name), f"{where}{field.name}"
        if is_dataclass(value):
            _values(value, seen, f"{name}.")
        seen.setdefault(name, set()).add("present" if is_dataclass(value) else value)


def test_the_table_has_every_field_with_more_than_one_value():
    seen = {}
    for form in TABLE.values():
        _values(form, seen)
    constant = {name for name, values in seen.items() if len(values) < 2}
    # Every form has a residual; a norm's fields vary in the first of them.
    others = {name for name in constant if "post_norm." not in name and "inner_norm." not in name}
    assert others == {"residual", "residual.norm.statistics_dtype"}
