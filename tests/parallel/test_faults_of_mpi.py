"""Ranks under the machine's own mpiexec, one of which fails: all of them end, in time, and say which and why."""

import re

import pytest
from fault_runs import SHORT, SHORTER, ended, two_ranks

BUDGET_S = 8


@pytest.fixture(scope="module")
def mpiexec(mpi_launcher):
    return two_ranks(mpi_launcher)


def rank_0_says(sentence):
    return re.compile(f"^trtllm-ext: rank 0 of 2 ends: .*{sentence}", re.MULTILINE)


long = pytest.mark.long


@pytest.mark.parametrize(
    "fault, sentence",
    [
        ("killed", "rank 1 (was ended by signal 9|has died)"),
        ("stopped", "rank 1 has not arrived within 2 s at all_reduce .* stopped"),
        pytest.param(
            "two threads",
            "rank 1 failed: one thread called all_reduce while another one was in exchange",
            marks=long,
        ),
        pytest.param("late", "rank 1 has not arrived within 2 s at all_reduce .* computing", marks=long),
        # By default, tests/parallel/test_launch_of_mpi.py has it.
        pytest.param("raised", "rank 1 failed: ValueError: half of it is missing", marks=long),
        ("never started", "rank 1 has not started: rank 0 has waited 1 s for it in MPI_Init"),
        pytest.param(
            "left early", "rank 1 has not started: rank 0 has waited 1 s for it in MPI_Init", marks=long
        ),
        pytest.param("crashed", "rank 1 (was ended by signal 11|has died)", marks=long),
        pytest.param("left", r"rank 1 failed: it ended with sys\.exit\(3\)", marks=long),
        pytest.param("other operation", "different operations: .*rank 1 in all_gather", marks=long),
    ],
)
def test_all_ranks_end_with_the_rank_and_the_cause(mpiexec, fault, sentence):
    never_meet = fault in ("never started", "left early")
    code, out, err = ended([*mpiexec, fault, "1"], SHORTER if never_meet else SHORT)
    assert code != 0
    assert rank_0_says(sentence).search(err), err
    assert "done" not in out


@pytest.mark.long
def test_rank_0_is_no_exception(mpiexec):
    code, _, err = ended([*mpiexec, "killed", "0"])
    assert code != 0
    assert re.search(
        r"^trtllm-ext: rank 1 of 2 ends: rank 0 (was ended by signal 9|has died)", err, re.MULTILINE
    ), err


@pytest.mark.long
@pytest.mark.parametrize("case", ["none", "busy", "last", "last but one"])
def test_no_false_alarm(mpiexec, case):
    code, out, err = ended([*mpiexec, case, "1"])
    assert code == 0, err
    assert out.count("done") == 2
    assert "trtllm-ext" not in err
