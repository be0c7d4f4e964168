"""How a process learns from its environment that a launcher started it, and how long operations may wait."""

import pytest

from trtllm_ext.errors import RankError
from trtllm_ext.parallel import launched_rank, launched_size
from trtllm_ext.parallel.world import default_timeout, launch_from, ranks_on_host

BUDGET_S = 1

STARTED = [
    ({"PMI_RANK": "1", "PMI_SIZE": "2"}, (1, 2)),
    ({"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4", "PMIX_RANK": "3"}, (3, 4)),
    ({"PMIX_RANK": "2", "SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "2"}, (2, 8)),
    ({"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "6", "SLURM_NTASKS": "6"}, (5, 6)),
    # A launcher inside a step of one task.
    ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "PMI_RANK": "1", "PMI_SIZE": "2"}, (1, 2)),
]


@pytest.mark.parametrize("environment, expected", STARTED)
def test_launchers(environment, expected):
    launch = launch_from(environment)
    assert (launch.rank, launch.size) == expected


def test_a_batch_script_of_slurm_is_no_launch():
    assert launch_from({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "1"}) is None


@pytest.mark.parametrize("rank, size", [("2", "2"), ("-1", "2"), ("0", "0"), ("", "2"), ("a", "2")])
def test_variables_that_are_no_rank_are_refused(rank, size):
    with pytest.raises(RankError, match=r"PMI_RANK=.* and PMI_SIZE=.* are not a rank of a world"):
        launch_from({"PMI_RANK": rank, "PMI_SIZE": size})


def test_size_and_rank_of_this_process(monkeypatch):
    for names in ("OMPI_COMM_WORLD_", "PMI_", "MV2_COMM_WORLD_"):
        monkeypatch.delenv(f"{names}RANK", raising=False)
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS", raising=False)
    assert (launched_rank(), launched_size()) == (0, 1)
    monkeypatch.setenv("PMI_RANK", "1")
    monkeypatch.setenv("PMI_SIZE", "3")
    assert (launched_rank(), launched_size()) == (1, 3)


OPENMPI = {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "8"}
MPICH = {"PMI_RANK": "3", "PMI_SIZE": "8"}
SRUN = {"SLURM_PROCID": "6", "SLURM_STEP_NUM_TASKS": "7"}
ON_HOST = [
    ({}, 1),
    (MPICH, 1),
    ({**MPICH, "MPI_LOCALNRANKS": "4"}, 4),
    ({**OPENMPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, 2),
    ({"MV2_COMM_WORLD_RANK": "0", "MV2_COMM_WORLD_SIZE": "4", "MV2_COMM_WORLD_LOCAL_SIZE": "4"}, 4),
    ({**SRUN, "SLURM_STEP_TASKS_PER_NODE": "2(x3),1", "SLURM_NODEID": "2"}, 2),
    ({**SRUN, "SLURM_STEP_TASKS_PER_NODE": "2(x3),1", "SLURM_NODEID": "3"}, 1),
    ({**SRUN, "SLURM_STEP_TASKS_PER_NODE": "3,4"}, 4),
    ({**MPICH, "SLURM_STEP_TASKS_PER_NODE": "8", "SLURM_NODEID": "0"}, 8),  # srun --mpi=pmi2
    ({**SRUN, "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_TASKS_PER_NODE": "7"}, 2),
    ({**SRUN, "SLURM_TASKS_PER_NODE": "7"}, 7),
    # A launcher inside a job that has room for more, and a job that is larger than the launch.
    ({**MPICH, "MPI_LOCALNRANKS": "2", "SLURM_TASKS_PER_NODE": "64"}, 2),
    ({**MPICH, "SLURM_TASKS_PER_NODE": "64"}, 8),
    # Variables without a launch, or in a process that a rank lets run alone.
    ({"MPI_LOCALNRANKS": "4", "SLURM_TASKS_PER_NODE": "4"}, 1),
    ({**MPICH, "MPI_LOCALNRANKS": "4", "TRTLLM_EXT_RANK_PROCESS": "none"}, 1),
    ({**MPICH, "PMI_RANK": "8", "MPI_LOCALNRANKS": "4"}, 1),
    # What cannot be read.
    *[({**MPICH, "MPI_LOCALNRANKS": text}, 1) for text in ("", "0", "-1", "two")],
    *[
        ({**SRUN, "SLURM_STEP_TASKS_PER_NODE": text}, 1)
        for text in ("", "0", "2(x0)", "2(x3),", "2x3", "two")
    ],
]


@pytest.mark.parametrize("environment, expected", ON_HOST)
def test_ranks_on_this_host(environment, expected):
    assert ranks_on_host(environment) == expected


def test_timeouts(monkeypatch):
    monkeypatch.delenv("TRTLLM_EXT_RANK_TIMEOUT", raising=False)
    assert default_timeout() == 10
    monkeypatch.setenv("TRTLLM_EXT_RANK_TIMEOUT", "2.5")
    assert default_timeout() == 2.5
    for text in ("0", "-1", "inf", "nan", "soon"):
        monkeypatch.setenv("TRTLLM_EXT_RANK_TIMEOUT", text)
        with pytest.raises(RankError, match=f"TRTLLM_EXT_RANK_TIMEOUT='{text}' is not a positive number"):
            default_timeout()
