"""Ranks that `launch` starts through the machine's own mpiexec: it has the last word on what failed."""

import sys

import pytest
from fault_runs import PROGRAM, SHORT, SHORTER, ended

BUDGET_S = 6

LAUNCH = (
    "import sys; from trtllm_ext.parallel.launch import launch; "
    "sys.exit(launch(2, sys.argv[2:], program=[sys.executable, sys.argv[1]]))"
)
# 10 s, through which MPI keeps a processor busy in the rank that waits: for the long runs.
DEFAULT = {"TRTLLM_EXT_RANK_TIMEOUT": ""}
long = pytest.mark.long
pytestmark = pytest.mark.usefixtures("mpi_launcher")


def launched(fault, environment=SHORT):
    return ended([sys.executable, "-c", LAUNCH, str(PROGRAM), fault, "1"], environment)


@pytest.mark.parametrize(
    "fault, sentence, environment",
    [
        # By default, tests/faults has one that is killed.
        pytest.param("killed", "rank 1 was ended by signal 9 (SIGKILL)", SHORT, marks=long),
        # By default, tests/parallel/test_faults_of_mpi.py has one that has never started.
        pytest.param("never started", "rank 1 has not started within 1 s", SHORTER, marks=long),
        pytest.param("never started", "rank 1 has not started within 10 s", DEFAULT, marks=long),
        pytest.param("left early", "rank 1 has not started within 1 s", SHORTER, marks=long),
        pytest.param("crashed", "rank 1 was ended by signal 11 (SIGSEGV)", SHORT, marks=long),
        pytest.param("stopped", "the process of rank 1 is stopped", SHORT, marks=long),
        pytest.param("late", "rank 1 has not arrived within 10 s at all_reduce", DEFAULT, marks=long),
        ("raised", "rank 1 failed: ValueError: half of it is missing", SHORT),
        pytest.param("left", "rank 1 failed: it ended with sys.exit(3)", SHORT, marks=long),
        pytest.param("other operation", "rank 1 in all_gather", SHORT, marks=long),
    ],
)
def test_the_last_line_names_the_rank_and_the_cause(fault, sentence, environment):
    code, out, err = launched(fault, environment)
    assert code != 0
    last_line = err.splitlines()[-1]
    assert last_line.startswith("trtllm-ext: error: "), err
    assert sentence in last_line, err
    assert "done" not in out


@pytest.mark.parametrize("case", ["last", pytest.param("none", marks=long), pytest.param("busy", marks=long)])
def test_no_false_alarm(case):
    code, out, err = launched(case)
    assert code == 0, err
    assert out.count("done") == 2
    assert "trtllm-ext" not in err
