"""A rank that does not come, at the start or later: the others wait as long as they may, then all end and say who."""

import pytest

from trtllm_ext.parallel.world import default_timeout

BUDGET_S = 18  # MPI keeps a processor busy in a rank that waits

long = pytest.mark.long
TIMEOUT_S = 2
SLEEP = "time.sleep(60)"


@pytest.mark.parametrize(
    "launcher, timeout_s, seconds",
    [
        # By default, tests/parallel/test_faults_of_mpi.py has one like it.
        pytest.param("mpiexec", TIMEOUT_S, TIMEOUT_S, marks=long),
        pytest.param("mpiexec", None, 10, marks=long),
        pytest.param("nproc", None, 10, marks=long),
    ],
)
def test_a_rank_that_never_starts_mpi(ranks, engine, launcher, timeout_s, seconds):
    ranks.start(launcher, engine, (1, "start", SLEEP), timeout_s=timeout_s)
    ranks.end().names(f"rank 1 has not started.*[^0-9]{seconds} s.* in MPI_Init")


def test_the_default_is_ten_seconds(monkeypatch):
    monkeypatch.delenv("TRTLLM_EXT_RANK_TIMEOUT", raising=False)
    assert default_timeout() == 10


@pytest.mark.parametrize(
    "launcher, when",
    [
        ("nproc", "run"),
        pytest.param("mpiexec", "load", marks=long),
        pytest.param("nproc", "load", marks=long),
        pytest.param("mpiexec", "run", marks=long),
    ],
)
@pytest.mark.parametrize("rank", [1, pytest.param(0, marks=long)])
def test_a_rank_that_sleeps(ranks, engine, launcher, when, rank):
    ranks.start(launcher, engine, (rank, when, SLEEP), timeout_s=TIMEOUT_S)
    where = "exchange" if when == "load" else "the start of Session.run .*: all_gather"
    ranks.end().names(
        f"rank {rank} has not arrived within {TIMEOUT_S} s at {where} .*, where rank {1 - rank} waits; "
        f"rank {rank} has been computing"
    )


@long
def test_a_rank_that_sleeps_longer_than_the_default(ranks, engine):
    ranks.start("mpiexec", engine, (1, "run", SLEEP))
    ranks.end().names("rank 1 has not arrived within 10 s at the start of Session.run .*: all_gather")
