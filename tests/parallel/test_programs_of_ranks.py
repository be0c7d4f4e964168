"""Ranks whose programs do more than compute: they start processes, use MPI themselves, have no output."""

import os
import re
import sys
from contextlib import nullcontext

import pytest
from fault_runs import ended, two_ranks

from trtllm_ext.errors import RankError
from trtllm_ext.parallel import launched_rank, launched_size, world

BUDGET_S = 5

# `parallel.world` is the function.
ranks_world = sys.modules["trtllm_ext.parallel.world"]

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
STARTED = r"""
ASK = "from trtllm_ext.parallel import world; world()"
if communicator.rank == 1:
    # The second one has its open files too, the socket of MPICH's launcher among them; the third is told to be alone.
    for options in {}, {"close_fds": False}, {"env": {**os.environ, "TRTLLM_EXT_RANK_PROCESS": "none"}}:
        child = subprocess.run([sys.executable, "-c", ASK], stderr=subprocess.PIPE, **options)
        os.write(1, child.stderr + f"ended with {child.returncode}\n".encode())
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
    # Rank 0 waits while rank 1 starts one process after the other.
    patient = {"TRTLLM_EXT_RANK_TIMEOUT": "12"}
    code, out, err = ended([*ranks, "-c", START + FORKED + STARTED + END + FINALIZED], patient)
    assert code == 0, err
    assert out.count("sum 4.0") == 2
    assert "child: this process was forked off rank 1 and is no rank; use the world in the rank" in out
    refusals = re.findall("has the variables of rank 1, but was started by it and not by .*mpi", out)
    assert len(refusals) == 2
    assert re.findall("ended with .", out) == ["ended with 1", "ended with 1", "ended with 0"]
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
    with pytest.raises(RankError, match="this process has the variables of rank 1, but was started by it"):
        world()


@pytest.mark.parametrize(
    "marker, namespace, is_child",
    [
        ("{other} {launch}", "job@1", True),
        ("{own} {launch}", "job@1", False),  # of this process, before it replaced its program
        ("{other} {launch}", "job@2", False),  # a rank of a launch that a rank has started
        ("", "job@1", False),
    ],
)
def test_children_of_ranks_of_other_launchers(marker, namespace, is_child):
    variables = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "PMIX_NAMESPACE": "job@1"}
    launch_id = ranks_world._launch_id(variables)
    marked = marker.format(own=os.getpid(), other=os.getpid() + 1, launch=launch_id)
    variables |= {"TRTLLM_EXT_RANK_PROCESS": marked, "PMIX_NAMESPACE": namespace}
    launch = ranks_world.launch_from(variables)
    with pytest.raises(RankError, match="rank 1, but was started by it") if is_child else nullcontext():
        ranks_world._check_started_by_launcher(launch, variables)


def test_a_process_that_is_to_run_alone(monkeypatch):
    for name, value in (("PMI_RANK", "1"), ("PMI_SIZE", "2"), ("TRTLLM_EXT_RANK_PROCESS", "none")):
        monkeypatch.setenv(name, value)
    assert world() is None
    assert (launched_rank(), launched_size()) == (0, 1)
