"""The tables in docs are what the code says."""

import importlib.util
from pathlib import Path

import pytest

BUDGET_S = 5

DOCS = Path(__file__).parent.parent / "docs"


def make_tables():
    spec = importlib.util.spec_from_file_location("make_tables", DOCS / "make_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["forms", "architectures"])
def test_a_table_is_up_to_date(name):
    text = getattr(make_tables(), name)()
    assert (DOCS / f"{name}.md").read_text() == text, "run `python docs/make_tables.py`"
