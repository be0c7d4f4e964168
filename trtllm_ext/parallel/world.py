"""The MPI world that this process was started into, if any; found from the environment, without importing MPI."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from trtllm_ext.errors import RankError
from trtllm_ext.parallel.communicator import Communicator

TIMEOUT_VARIABLE = "TRTLLM_EXT_RANK_TIMEOUT"
DEFAULT_TIMEOUT_S = 10.0
# What a rank leaves to the processes that it starts: its process id and `_launch_id`. The value NO_RANK is for users.
PROCESS_VARIABLE = "TRTLLM_EXT_RANK_PROCESS"
NO_RANK = "none"

_MPICH = "MPICH's mpiexec"
# Launcher, the variable with this process's rank, the one with the number of ranks. OpenMPI's own first, since its
# mpirun may stand on PMIx or Slurm; Slurm's last, since a launcher may run inside a step of a job. Slurm sets
# SLURM_NTASKS in batch scripts too, where nothing has been launched, SLURM_STEP_NUM_TASKS in what srun starts only.
_LAUNCHERS = (
    ("OpenMPI's mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    (_MPICH, "PMI_RANK", "PMI_SIZE"),
    ("MVAPICH's mpirun", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
    ("Slurm's srun with PMIx", "PMIX_RANK", "SLURM_STEP_NUM_TASKS"),
    ("Slurm's srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
)
# Ranks on this process's host, as launchers count them; a launcher inside a Slurm job first, as above.
_LOCAL_SIZES = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "MV2_COMM_WORLD_LOCAL_SIZE")
# Slurm's count of each host in turn, of a step and of its job: "2(x3),1" is 2, 2, 2, 1.
_SLURM_LOCAL_SIZES = ("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE")


@dataclass(frozen=True)
class Launch:
    """How a process was started: the launcher's name, its rank and the number of ranks."""

    launcher: str
    rank: int
    size: int


def launch_from(environment: Mapping[str, str]) -> Launch | None:
    """The launch that environment variables tell of; None for TRTLLM_EXT_RANK_PROCESS=none, whatever they tell.

    Raises RankError for variables that are no rank of a world.
    """
    if environment.get(PROCESS_VARIABLE) == NO_RANK:
        return None
    for launcher, rank_name, size_name in _LAUNCHERS:
        rank_text, size_text = environment.get(rank_name), environment.get(size_name)
        if rank_text is None or size_text is None:
            continue
        try:
            rank, size = int(rank_text), int(size_text)
        except ValueError:
            rank, size = -1, 0
        if not 0 <= rank < size:
            raise RankError(
                f"{rank_name}={rank_text!r} and {size_name}={size_text!r} are not a rank of a world; unset them, or "
                f"start with {launcher}"
            )
        return Launch(launcher, rank, size)
    return None


def launched_size() -> int:
    """The number of ranks that a launcher started, this process among them; 1 without a launcher."""
    launch = launch_from(os.environ)
    return 1 if launch is None else launch.size


def launched_rank() -> int:
    """This process's rank among them; 0 without a launcher."""
    launch = launch_from(os.environ)
    return 0 if launch is None else launch.rank


def ranks_on_host(environment: Mapping[str, str]) -> int:
    """How many of the ranks that a launcher started are on this process's host; 1 without a launcher.

    Also 1 where nothing in the environment tells of it, or what does cannot be read.
    """
    try:
        launch = launch_from(environment)
    except RankError:
        return 1
    if launch is None:
        return 1
    for name in _LOCAL_SIZES:
        text = environment.get(name, "")
        if text.isdecimal() and int(text) > 0:
            return min(int(text), launch.size)
    for name in _SLURM_LOCAL_SIZES:
        counts = _slurm_counts(environment.get(name, ""))
        if counts:
            node = environment.get("SLURM_NODEID", "")
            here = counts[int(node)] if node.isdecimal() and int(node) < len(counts) else max(counts)
            return min(here, launch.size)
    return 1


def _slurm_counts(text: str) -> list[int]:
    """[2, 2, 2, 1] of "2(x3),1"; nothing of what is not in this form."""
    counts = []
    for part in text.split(","):
        found = re.fullmatch(r"([1-9]\d{0,5})(?:\(x([1-9]\d{0,5})\))?", part.strip())
        if found is None:
            return []
        counts += [int(found[1])] * int(found[2] or 1)
    return counts


def default_timeout() -> float:
    """Seconds that an operation waits for other ranks: TRTLLM_EXT_RANK_TIMEOUT, or 10.

    Raises RankError for a value that is not a positive number.
    """
    text = os.environ.get(TIMEOUT_VARIABLE, "")
    if not text:
        return DEFAULT_TIMEOUT_S
    try:
        timeout = float(text)
    except ValueError:
        timeout = 0.0
    if not 0 < timeout < float("inf"):
        raise RankError(f"{TIMEOUT_VARIABLE}={text!r} is not a positive number of seconds, such as 10")
    return timeout


_CHILD_WAY_OUT = (
    f"use the world in the rank itself, or set {PROCESS_VARIABLE}={NO_RANK} for this process to run alone"
)
# Which of the launches on a host, one of which a rank of another may have started; each launcher sets some.
_LAUNCH_IDS = (
    "PMIX_NAMESPACE",
    "OMPI_MCA_ess_base_jobid",
    "SLURM_JOB_ID",
    "SLURM_STEP_ID",
    "PMI_PORT",
    "PMI_ID",
)

_world: Communicator | None = None
_process = 0  # whose world it is


def world(timeout: float | None = None) -> Communicator | None:
    """The communicator of the ranks that a launcher started with this process; None if it started no others.

    timeout: seconds that an operation waits for other ranks; None is `default_timeout()`. The first call starts MPI and
    decides, later ones give the same communicator. Collective over all ranks at the first call.
    Raises RankError if mpi4py is missing, or belongs to another MPI than the launcher, and in a process that a rank
    started: it has the variables of the launcher, but is no rank.
    """
    global _world, _process
    if _world is None:
        launch = launch_from(os.environ)
        if launch is None or launch.size == 1:
            return None
        _check_started_by_launcher(launch, os.environ)
        from trtllm_ext.parallel.mpi import start

        _world = start(launch, default_timeout() if timeout is None else timeout)
        _process = os.getpid()
        os.environ[PROCESS_VARIABLE] = f"{_process} {_launch_id(os.environ)}"
    if _process != os.getpid():
        raise RankError(f"this process was forked off rank {_world.rank} and is no rank; {_CHILD_WAY_OUT}")
    return _world


def _check_started_by_launcher(launch: Launch, environment: Mapping[str, str]) -> None:
    pid, _, launch_id = environment.get(PROCESS_VARIABLE, "").partition(" ")
    is_started_by_rank = pid != str(os.getpid()) and launch_id == _launch_id(environment)
    # MPICH's launcher hands each rank an open socket, which what the rank starts seldom gets.
    has_lost_socket = launch.launcher == _MPICH and _socket_of(environment) == 0
    if is_started_by_rank or has_lost_socket:
        raise RankError(
            f"this process has the variables of rank {launch.rank}, but was started by it and not by "
            f"{launch.launcher}; {_CHILD_WAY_OUT}"
        )


def _launch_id(environment: Mapping[str, str]) -> str:
    """The same for a rank and what it starts; another one for ranks that those launch."""
    return " ".join([*(environment.get(name, "-") for name in _LAUNCH_IDS), str(_socket_of(environment))])


def _socket_of(environment: Mapping[str, str]) -> int | None:
    """The inode of the connection to MPICH's launcher; 0 if it is closed, None if the launcher gave none."""
    text = environment.get("PMI_FD", "")
    if not text.isdecimal():
        return None
    try:
        return os.fstat(int(text)).st_ino
    except OSError:
        return 0
