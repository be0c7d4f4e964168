"""The world of ranks that are MPI processes, by mpi4py; imported only where a launcher started more than one."""

from __future__ import annotations

import json
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from trtllm_ext.errors import RankError
from trtllm_ext.parallel.communicator import Array, Communicator, ReduceOp
from trtllm_ext.parallel.ending import Ending
from trtllm_ext.parallel.hooks import Hooks
from trtllm_ext.parallel.monitor import Monitor
from trtllm_ext.parallel.mpi_team import Scratch, Team
from trtllm_ext.parallel.mpi_waiting import wait_asleep
from trtllm_ext.parallel.ordered_sum import (
    check_array,
    check_group,
    check_reduction,
    share_of,
    to_json,
    two_threads,
)

if TYPE_CHECKING:
    from trtllm_ext.parallel.world import Launch


def import_mpi() -> Any:
    """The module mpi4py.MPI, with MPI not started unless somebody else has.

    Its end is not left to mpi4py, which finalizes after the interpreter's end, when no thread watches any more.
    Raises RankError if mpi4py, or the MPI library that it needs, is missing.
    """
    try:
        import mpi4py
    except ImportError:
        raise RankError(
            "a world of several ranks needs mpi4py and an MPI: pip install mpi4py mpich"
        ) from None
    mpi4py.rc.initialize = False
    mpi4py.rc.finalize = False
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        cause = str(error).partition("\n")[0]  # then each file that was tried
        raise RankError(
            f"mpi4py finds no MPI library ({cause}). Install one: pip install mpich, or a system's MPICH or OpenMPI"
        ) from error
    return MPI


def check_launch(mpi: Any, launch: Launch) -> None:
    """Raises RankError unless the MPI library found the ranks that the launcher started, and lets threads call it."""
    size, library = mpi.COMM_WORLD.Get_size(), mpi.Get_library_version().splitlines()[0].strip()
    if size != launch.size:
        raise RankError(
            f"rank {launch.rank}: {launch.launcher} started {launch.size} ranks, but mpi4py's library ({library}) sees "
            f"{size}: the launcher belongs to another MPI. Start with the mpiexec of that library (beside python if "
            f"it came by pip), or under Slurm with srun --mpi=pmix or --mpi=pmi2, whichever the library speaks"
        )
    if mpi.Query_thread() < mpi.THREAD_MULTIPLE:
        names = {
            mpi.THREAD_SINGLE: "SINGLE",
            mpi.THREAD_FUNNELED: "FUNNELED",
            mpi.THREAD_SERIALIZED: "SERIALIZED",
        }
        raise RankError(
            f"rank {launch.rank}: the MPI library ({library}) gives thread level {names[mpi.Query_thread()]}; MULTIPLE "
            f"is needed, to end the ranks from another thread. Use a build of it with threads, and let nothing start "
            f"MPI before trtllm_ext"
        )


class _Turn:
    """Around each operation of a rank, `with turn.of("all_reduce")`: refuses a second thread's beside it.

    end: told of every error in an operation, which may have left the ranks at different places.
    """

    def __init__(self, monitor: Hooks, end: Callable[[Exception], None]) -> None:
        self._monitor, self._end = monitor, end
        self._lock = threading.Lock()
        self._what = ""

    def of(self, what: str) -> _Turn:
        if not self._lock.acquire(blocking=False):
            self._end(RankError(two_threads(what, self._what)))
        self._what = what
        return self

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self._monitor.operation is not None:
            self._monitor.operation = None
        self._lock.release()
        if isinstance(error, Exception):
            self._end(error)


class MpiCommunicator(Communicator):
    """One rank of the world of MPI processes: a duplicate of COMM_WORLD, so that nobody else's messages meet ours.

    monitor: watches operations, tells of failures; without one nothing has a deadline.
    Values are moved by MPI and added by numpy in rank order: the bits are those of LocalWorld.
    """

    is_simulated = False

    def __init__(self, mpi: Any, timeout: float, monitor: Hooks | None = None) -> None:
        self._mpi, self._comm = mpi, mpi.COMM_WORLD.Dup()
        self.rank, self.world_size, self.timeout = self._comm.Get_rank(), self._comm.Get_size(), timeout
        self.monitor = Hooks(self.rank) if monitor is None else monitor
        self.monitor.abort = mpi.COMM_WORLD.Abort
        self._turn = _Turn(self.monitor, self._end)
        self._scratch = Scratch()
        self._everyone = tuple(range(self.world_size))
        self._teams = {self._everyone: Team(mpi, self._comm, self._everyone, self._scratch)}

    def all_reduce(self, values: Array, group: Sequence[int], op: ReduceOp = "sum") -> None:
        with self._turn.of("all_reduce"):
            team = self._team("all_reduce", group)
            check_array("all_reduce", values)
            check_reduction("all_reduce", values, op)
            if team.size > 1 and values.size:
                self.monitor.operation = (self._named("all_reduce"), values.size, values.dtype, team.group)
                team.all_reduce(values.reshape(-1), op)

    def all_gather(self, values: Array, gathered: Array, group: Sequence[int]) -> None:
        with self._turn.of("all_gather"):
            team = self._team("all_gather", group)
            check_array("all_gather", values)
            check_array("all_gather", gathered, values.size * team.size, values.dtype)
            if values.size:
                self.monitor.operation = (self._named("all_gather"), values.size, values.dtype, team.group)
                team.all_gather(values.reshape(-1), gathered.reshape(-1))

    def reduce_scatter(self, values: Array, part: Array, group: Sequence[int], op: ReduceOp = "sum") -> None:
        with self._turn.of("reduce_scatter"):
            team = self._team("reduce_scatter", group)
            share = share_of("reduce_scatter", values.size, team.size)
            check_array("reduce_scatter", values)
            check_array("reduce_scatter", part, share, values.dtype)
            check_reduction("reduce_scatter", values, op)
            if values.size:
                self.monitor.operation = (
                    self._named("reduce_scatter"),
                    values.size,
                    values.dtype,
                    team.group,
                )
                team.reduce_scatter(values.reshape(-1), part.reshape(-1), op)

    def broadcast(self, values: Array, group: Sequence[int]) -> None:
        with self._turn.of("broadcast"):
            team = self._team("broadcast", group)
            check_array("broadcast", values)
            if team.size > 1 and values.size:
                self.monitor.operation = (self._named("broadcast"), values.size, values.dtype, team.group)
                team.broadcast(values.reshape(-1))

    def exchange(self, value: Any) -> list[Any]:
        with self._turn.of("exchange"):
            text = np.frombuffer(to_json(value).encode(), np.uint8)
            self.monitor.operation = (self._named("exchange"), text.size, text.dtype, self._everyone)
            sizes = np.empty(self.world_size, np.int64)
            wait_asleep(self._comm.Iallgather(np.array([text.size], np.int64), sizes))
            texts = np.empty(int(sizes.sum()), np.uint8)
            self._comm.Allgatherv(text, [texts, sizes.tolist(), None, self._mpi.BYTE])
        return [json.loads(part.tobytes()) for part in np.split(texts, np.cumsum(sizes)[:-1])]

    def prepare(self, group: Sequence[int]) -> None:
        with self._turn.of("prepare"):
            self._team("prepare", group)

    def _team(self, what: str, group: Sequence[int]) -> Team:
        return self._teams.get(tuple(group)) or self._new_team(what, group)

    def _new_team(self, what: str, group: Sequence[int]) -> Team:
        ranks = check_group(what, group, self.rank, self.world_size)
        self.monitor.operation = ("making of a group", 0, np.dtype("uint8"), ranks)
        everyone = self._comm.Get_group()
        members = everyone.Incl(list(ranks))
        self._teams[ranks] = Team(self._mpi, self._comm.Create_group(members), ranks, self._scratch)
        members.Free()
        everyone.Free()
        return self._teams[ranks]

    def _end(self, error: Exception) -> None:
        message = str(error)
        if isinstance(error, self._mpi.Exception):
            # What follows is the library's stack.
            message = f"MPI says: {message.split(', error stack')[0]}; do all ranks pass the same sizes?"
        elif not isinstance(error, RankError):
            message = f"{type(error).__name__}: {message}"
        self.fail(message)
        raise RankError(f"rank {self.rank} failed: {message}") from error

    @contextmanager
    def busy(self, what: str) -> Iterator[None]:
        with self.monitor.busy(what):
            yield

    def fail(self, message: str) -> None:
        self.monitor.fail(message)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        # Nobody else would print where it came from: a failure ends the process here.
        if error is not None and not (isinstance(error, SystemExit) and error.code in (None, 0)):
            traceback.print_exception(error)
            self.fail(f"{type(error).__name__}: {error}")

    def close(self) -> None:
        """Nothing: the world is the process's, and ends with it (`ending`)."""


def _finalize(mpi: Any) -> None:
    # A program that uses MPI itself may have done it.
    if not mpi.Is_finalized():
        mpi.Finalize()


_refusal: RankError | None = None  # why this process gets no world, found out once


def start(launch: Launch, timeout: float) -> MpiCommunicator:
    """The world that a launcher started, watched; this process now ends as `Ending` says.

    Raises RankError as `import_mpi` and `check_launch` do.
    """
    global _refusal
    if _refusal is not None:
        raise _refusal
    mpi = import_mpi()
    monitor = Monitor(launch.rank, launch.size, timeout)
    # From here on the others wait for this process, whatever it fails in.
    ending = Ending(monitor, partial(_finalize, mpi))
    ending.install()
    _init(mpi)
    try:
        check_launch(mpi, launch)
    except RankError as error:
        _refusal = error
        ending.fail_with(str(error).removeprefix(f"rank {launch.rank}: "))
        # A program may go on for as long as it likes: it waits for nobody, and tells the cause when it ends.
        monitor.operation = None
        raise
    communicator = MpiCommunicator(mpi, timeout, monitor)
    monitor.join(communicator.exchange)
    return communicator


def _init(mpi: Any) -> None:
    if mpi.Is_initialized():
        return
    with warnings.catch_warnings():
        # Of a launcher that belongs to another MPI; `check_launch` says it with the way out.
        warnings.filterwarnings("ignore", "suspicious MPI", RuntimeWarning)
        mpi.Init_thread(mpi.THREAD_MULTIPLE)
