"""Ranks whose programs do more than compute: they start processes, use MPI themselves, have no output."""

import pytest
from fault_runs import ended, two_ranks

from trtllm_ext.errors import RankError
from trtllm_ext.parallel import world

BUDGET_S = 5

START = r"""
import os, subprocess, sys
import numpy as np
from trtllm_ext.errors import RankError
from trtllm_ext.parallel import world
communicator = world()
values = np.ones(3, np.float32)
"""
FORKED = r"""
communicator.all_reduce(values, (0, 1))
if communicator.rank == 1 and os.fork() == 0:
    try:
        world()
    except RankError as error:
        os.write(1, f"child: {error}\n".encode())
    sys.exit(3)
"""
STARTED = """
ASK = "from trtllm_ext.parallel import world; world()"
if communicator.rank == 1:
    os.write(1, subprocess.run([sys.executable, "-c", ASK], stderr=subprocess.PIPE).stderr)
"""
END = r"""
communicator.all_reduce(values, (0, 1))
os.write(1, f"sum {values[0]}\n".encode())
"""
FINALIZED = "from mpi4py import MPI; MPI.COMM_WORLD.Barrier(); MPI.Finalize()"


@pytest.fixture(scope="module")
def ranks(mpi_launcher):
    return two_ranks(mpi_launcher)[:-1]


def test_a_process_that_a_rank_starts_is_no_rank(ranks):
    code, out, err = ended([*ranks, "-c", START + FORKED + STARTED + END + FINALIZED])
    assert code == 0, err
    assert out.count("sum 4.0") == 2
    assert "child: this process was forked off rank 1 and is no rank; use the world in the rank" in out
    if "PMI_FD" in out:
        assert "has the variables of rank 1, but was started by it and not by MPICH's mpiexec" in out
    assert "trtllm-ext" not in err


@pytest.mark.parametrize("fault, expected", [("", 0), ("if communicator.rank: raise ValueError", 1)])
def test_ranks_without_standard_streams(ranks, fault, expected):
    *launcher, python = ranks
    closed = [*launcher, "sh", "-c", f'exec {python} -c "$0" <&- >&- 2>&-', f"{START}{fault}{END}"]
    code, _, _ = ended(closed)
    assert bool(code) == bool(expected)


def test_the_variables_of_a_rank_without_its_connection(monkeypatch):
    for name in ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (("PMI_RANK", "1"), ("PMI_SIZE", "2"), ("PMI_FD", "999")):
        monkeypatch.setenv(name, value)
    with pytest.raises(RankError, match="PMI_FD=999 is not open: this process has the variables of rank 1"):
        world()
