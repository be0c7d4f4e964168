"""Ranks built by processes that a launcher has started: each builds its share into a directory that process 0 makes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from trtllm_ext.builder.engine import new_build_id
from trtllm_ext.builder.rank_build import Progress, RankJob, build_rank, revived, silent, told
from trtllm_ext.errors import BuildError, TrtllmExtError
from trtllm_ext.parallel import Communicator
from trtllm_ext.runtime.atomic import replaced_directory
from trtllm_ext.runtime.engine_dir import ENGINE_DIRECTORY

Result = TypeVar("Result")
# Another host's file system may show a new directory a little later.
_VISIBLE_S = 5.0
_RENEW_S = 1.0


class _AgreedError(Exception):
    """All processes know of `problem`, and raise it."""

    def __init__(self, problem: BaseException) -> None:
        super().__init__(str(problem))
        self.problem = problem


def build_together(
    communicator: Communicator,
    output_dir: str | os.PathLike[str],
    make_job: Callable[[Path, str], RankJob],
    finish: Callable[[RankJob, Iterable[dict[str, Any]], Progress], None],
    tell: Progress,
) -> None:
    """Build all ranks of an engine: process r builds r, r + world_size, and so on; to be called by all processes.

    Process 0 makes the directory, names the build, and puts everything in its place; it alone calls `tell`. After each
    engine the processes hear of each other how it went. What one has met all of them raise, the rank being named, when
    nothing is left behind; so a process may end at once.
    make_job(staging, build_id): what is to be done. finish(job, configs of all ranks, tell): the last of it.
    Raises RankError when a process is gone.
    """
    try:
        with ExitStack() as stack:
            _build(_Crew(communicator, tell), stack, output_dir, make_job, finish)
    except _AgreedError as agreed:
        communicator.exchange("cleaned up")
        raise agreed.problem from None


def _build(
    crew: _Crew,
    stack: ExitStack,
    output_dir: str | os.PathLike[str],
    make_job: Callable[[Path, str], RankJob],
    finish: Callable[[RankJob, Iterable[dict[str, Any]], Progress], None],
) -> None:
    leads = crew.rank == 0

    def begin(tell: Progress) -> list[str]:
        if not leads:
            return []
        staging = stack.enter_context(replaced_directory(output_dir, ENGINE_DIRECTORY))
        return [str(staging.resolve()), new_build_id()]

    staging, build_id = crew.all_do("making the directory", begin)[0]

    def read(tell: Progress) -> int:
        _wait_for(Path(staging), crew.rank)
        return make_job(Path(staging), build_id).world_size

    world_sizes = crew.all_do("reading the checkpoint", read)
    job = make_job(Path(staging), build_id)
    configs: list[dict[str, Any]] = []
    for first in range(0, max(world_sizes), crew.size):
        rank = first + crew.rank

        def build_own(tell: Progress, rank: int = rank) -> dict[str, Any] | None:
            _check_world_sizes(world_sizes)
            return build_rank(job, rank, tell) if rank < job.world_size else None

        configs += [each for each in crew.all_do(f"building rank {rank}", build_own) if each is not None]

    def end(tell: Progress) -> None:
        if leads:
            finish(job, configs, tell)
            stack.close()

    crew.all_do("finishing the engine directory", end)


class _Crew:
    """The processes, seen from one of them."""

    def __init__(self, communicator: Communicator, tell: Progress) -> None:
        self.rank, self.size = communicator.rank, communicator.world_size
        self._communicator = communicator
        self._tell: Progress = tell if self.rank == 0 else silent

    def all_do(self, what: str, action: Callable[[Progress], Result]) -> list[Result]:
        """Every process's result of `action(tell)`, of JSON's types; _AgreedError when one of them raised."""
        failed: tuple[str, str] | None = None
        own: BaseException | None = None
        value: Result | None = None
        try:
            with self._at_work(what) as tell:
                value = action(tell)
        except KeyboardInterrupt as problem:
            failed, own = ("KeyboardInterrupt", ""), problem
        except Exception as problem:
            failed, own = told(self.rank, problem), problem
        heard = self._communicator.exchange({"failed": failed, "value": value})
        for rank, each in enumerate(heard):
            if each["failed"] is not None:
                raise _AgreedError(_problem(each["failed"], own if rank == self.rank else None))
        return [each["value"] for each in heard]

    @contextmanager
    def _at_work(self, what: str) -> Iterator[Progress]:
        """While the others wait for this process; each step told, and each second, begins their patience anew."""
        with ExitStack() as stack:
            stack.enter_context(self._communicator.busy(what))
            last = (what, time.monotonic())

            def tell(step: str, done: int) -> None:
                nonlocal last
                if step != last[0] or time.monotonic() - last[1] > _RENEW_S:
                    last = (step, time.monotonic())
                    stack.close()
                    stack.enter_context(self._communicator.busy(step))
                self._tell(step, done)

            yield tell


def _problem(failed: tuple[str, str], own: BaseException | None) -> BaseException:
    kind, text = failed
    if isinstance(own, TrtllmExtError | KeyboardInterrupt):
        return own
    return KeyboardInterrupt() if kind == "KeyboardInterrupt" else revived(kind, text)


def _wait_for(staging: Path, rank: int) -> None:
    deadline = time.monotonic() + _VISIBLE_S
    while not staging.is_dir():
        if time.monotonic() > deadline:
            raise BuildError(
                f"process {rank} does not see {staging}, which process 0 made for the engines. Give an output_dir on a "
                f"file system that all hosts share, under the same path."
            )
        time.sleep(0.05)


def _check_world_sizes(world_sizes: list[int]) -> None:
    for process, size in enumerate(world_sizes):
        if size != world_sizes[0]:
            raise BuildError(
                f"process {process} sees a checkpoint of {size} rank(s), process 0 one of {world_sizes[0]}. Give a "
                f"checkpoint_dir on a file system that all hosts share."
            )
