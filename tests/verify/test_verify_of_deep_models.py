"""`verify_engine` of many layers without taps between them, where roundings of each add up."""

import math

import numpy as np
import pytest
from verified_models import engine_of, stack, with_weight

from trtllm_ext.verify import comparison, verify_engine

BUDGET_S = 6

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERS = 28
LAST = f"transformer.layers.{LAYERS - 1}.mlp"


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """Norms behind every add keep the roundings of all layers: 7e-2 at the end, where one layer is allowed 5e-2."""
    path = tmp_path_factory.mktemp("deep") / "c"
    return stack(path, "bfloat16", num_hidden_layers=LAYERS, placement="post")


@pytest.fixture(scope="module")
def engine(deep):
    return engine_of(deep)


def test_roundings_of_many_layers_are_no_fault(deep, engine):
    (row,) = verify_engine(engine, deep).rows
    assert 5e-2 < row.alone < row.tolerance
    assert row.tolerance == pytest.approx(5e-2 * math.sqrt(LAYERS / 4))
    wrong = with_weight(deep, f"{LAST}.proj.weight", np.roll(deep.weights[f"{LAST}.proj.weight"], 1, 0), ...)
    assert verify_engine(engine, wrong).first_wrong is not None


def test_what_is_allowed_grows_by_what_lies_between(deep):
    """Between taps of the last layer alone there is one sublayer; before the first of them are all but it."""
    rows = {row.point: row for row in verify_engine(engine_of(deep, (f"{LAST}.*",)), deep).rows}
    assert rows["before"].tolerance == pytest.approx(5e-2 * math.sqrt((LAYERS - 1) / 4))
    assert {rows[name].tolerance for name in ("contribution", "after")} == {5e-2}


def test_bisect_clears_an_engine_whose_roundings_add_up(deep, engine, monkeypatch):
    monkeypatch.setattr(comparison, "_num_sublayers", lambda *_: 1)
    report = verify_engine(engine, deep, bisect=True)
    assert not report.rows[0].is_right
    assert report.bisection.same_bits
    assert (report.is_right, report.sublayer) == (True, None)
    assert report.verdict.endswith("the given one's, bit for bit. Each step by itself is right.")
    assert any("roundings of bfloat16 that add up" in note for note in report.notes)
