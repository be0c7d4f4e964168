"""Ranks under the machine's own mpiexec, one of which fails: all of them end, in time, and say which and why."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trtllm_ext.errors import RankError
from trtllm_ext.parallel.launch import find_launcher, launcher_options

BUDGET_S = 8

LIMIT_S = 15  # after which something hangs
SHORT = {"TRTLLM_EXT_RANK_TIMEOUT": "2"}
PROGRAM = Path(__file__).with_name("faulty_rank.py")
OWN_LAUNCHER = (
    "import sys; from trtllm_ext.parallel.launch import launch; "
    "sys.exit(launch(2, sys.argv[2:], program=[sys.executable, sys.argv[1]]))"
)


@pytest.fixture(scope="module")
def mpiexec():
    pytest.importorskip("mpi4py", reason="mpi4py is not installed")
    try:
        launcher = find_launcher()
    except RankError as error:
        pytest.skip(f"no MPI launcher: {error}")
    return [*launcher, *launcher_options(launcher), "-n", "2", sys.executable, str(PROGRAM)]


def ended(command, environment=SHORT):
    """Exit code, stdout and stderr of a command that must end, with all that it started."""
    # The output goes through pipes that every process holds: their end is the end of all of them.
    begin = time.monotonic()
    process = subprocess.Popen(
        command,
        env={**os.environ, "TRTLLM_EXT_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail(f"does not end within {LIMIT_S} s: {command}\n{process.communicate()}")
    assert time.monotonic() - begin < LIMIT_S
    for pid in map(int, re.findall(r"^pid (\d+)$", out, re.MULTILINE)):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    return process.returncode, out, err


# The fault, and what every rank that is left must say; in the last place what the launcher of our own adds.
FAULTS = [
    ("killed", r"rank 1 (was ended by signal 9|has died)", "rank 1 was ended by signal 9 (SIGKILL)"),
    ("crashed", r"rank 1 (was ended by signal 11|has died)", "rank 1 was ended by signal 11 (SIGSEGV)"),
    ("stopped", r"rank 1 has not arrived within 2 s at all_reduce .* stopped", "its process is stopped"),
    ("late", r"rank 1 has not arrived within 2 s at all_reduce .* computing", "rank 1 has not arrived"),
    ("raised", r"rank 1 failed: ValueError: half of it is missing", "half of it is missing"),
    ("left", r"rank 1 failed: it ended with sys\.exit\(3\)", "sys.exit(3)"),
    ("other operation", r"different operations: .*rank 1 in all_gather", "rank 1 in all_gather"),
]


@pytest.mark.parametrize("fault, said, _", FAULTS)
def test_all_ranks_end_with_the_rank_and_the_cause(mpiexec, fault, said, _):
    code, out, err = ended([*mpiexec, fault, "1"])
    assert code != 0
    assert re.search(f"^trtllm-ext: rank 0 of 2 ends: .*{said}", err, re.MULTILINE), err
    assert "done" not in out


@pytest.mark.parametrize("fault, _, last", FAULTS)
def test_the_launcher_of_our_own_has_the_last_word(mpiexec, fault, _, last):
    code, out, err = ended([sys.executable, "-c", OWN_LAUNCHER, str(PROGRAM), fault, "1"])
    assert code != 0
    last_line = err.splitlines()[-1]
    assert last_line.startswith("trtllm-ext: error: ") and last in last_line, err
    assert "done" not in out


def test_rank_0_is_no_exception(mpiexec):
    code, _, err = ended([*mpiexec, "killed", "0"])
    assert code != 0
    assert re.search(r"^trtllm-ext: rank 1 of 2 ends: rank 0 (was ended by signal 9|has died)", err, re.MULTILINE), err


def test_a_rank_that_never_starts_is_missed_after_the_default_timeout(mpiexec):
    code, _, err = ended([*mpiexec, "never started", "1"], {"TRTLLM_EXT_RANK_TIMEOUT": ""})
    assert code != 0
    assert "rank 0 of 2 ends: rank 1 has not started: rank 0 has waited 10 s for it in MPI_Init" in err


@pytest.mark.parametrize("fault", ["never started", "left early"])
def test_the_launcher_of_our_own_names_the_rank_that_is_missing(mpiexec, fault):
    code, _, err = ended([sys.executable, "-c", OWN_LAUNCHER, str(PROGRAM), fault, "1"])
    assert code != 0
    assert err.splitlines()[-1].startswith("trtllm-ext: error: rank 1 has not started within 2 s"), err


@pytest.mark.parametrize("case", ["none", "busy", "last"])
@pytest.mark.parametrize("own", [False, True])
def test_no_false_alarm(mpiexec, case, own):
    command = [sys.executable, "-c", OWN_LAUNCHER, str(PROGRAM)] if own else mpiexec
    code, out, err = ended([*command, case, "1"])
    assert code == 0, err
    assert out.count("done") == 2
    assert "trtllm-ext" not in err
