"""Ranks built by several processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

from trtllm_ext.builder.rank_build import Progress, RankJob, build_rank, revived, told
from trtllm_ext.errors import BuildError
from trtllm_ext.runtime import own_plugins

_END_S = 5.0


def build_in_workers(job: RankJob, workers: int, tell: Progress) -> list[dict[str, Any]]:
    """`build_rank` for all ranks, in that many processes at the same time; the configs by rank.

    The threads that this process may use are shared out among them.
    Raises what `build_rank` raises, and BuildError naming the rank whose process has ended. No process is left then,
    nor when anything else ends this, such as an interrupt, of which the processes themselves take no notice.
    """
    from trtllm_ext.embedded.running.threads import num_threads

    count = min(workers, job.world_size)
    threads = max(1, num_threads() // count)
    left = deque(range(job.world_size))
    configs: dict[int, dict[str, Any]] = {}
    crew = []
    try:
        for _ in range(count):
            crew.append(_Worker(job, threads))
            crew[-1].give(left.popleft())
        while len(configs) < job.world_size:
            at_work = {worker.pipe: worker for worker in crew if worker.rank is not None}
            for pipe in wait(list(at_work)):
                worker = at_work[pipe]  # type: ignore[index]
                kind, *values = worker.answer()
                if kind == "step":
                    tell(*values)
                elif kind == "failed":
                    raise revived(*values)
                else:
                    assert worker.rank is not None
                    configs[worker.rank] = values[0]
                    worker.give(left.popleft() if left else None)
        return [configs[rank] for rank in range(job.world_size)]
    finally:
        for worker in crew:
            worker.end()


class _Worker:
    """A process that builds the ranks it is given, one after the other; `rank` is the one at hand."""

    def __init__(self, job: RankJob, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.rank: int | None = None
        self._process = context.Process(target=_work, args=(theirs, job, threads), daemon=True)
        with _no_interrupts():
            self._process.start()
        theirs.close()

    def give(self, rank: int | None) -> None:
        """Let it build a rank, or end."""
        self.rank = rank
        with suppress(BrokenPipeError):  # `answer` says what became of it
            self.pipe.send(rank)

    def answer(self) -> tuple[Any, ...]:
        """("step", text, bytes), ("failed", class of the error, sentence) or ("done", config)."""
        try:
            message: tuple[Any, ...] = self.pipe.recv()
            return message
        except (EOFError, ConnectionError):
            self._process.join(_END_S)
            raise BuildError(
                f"rank {self.rank}: the process that builds it {_ending(self._process.exitcode)}"
            ) from None

    def end(self) -> None:
        """Leave no process behind."""
        self.pipe.close()
        if self.rank is not None:
            self._process.terminate()
        self._process.join(_END_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        reason = f"was ended from outside ({name})"
        if name == "SIGKILL":
            reason += (
                ", as happens when the machine is out of memory. Use fewer workers, or a larger machine."
            )
            return reason
        return f"{reason}. Build again, or with fewer workers."
    return (
        f"ended by itself (exit code {code}). A script that builds with workers must do so below "
        f"`if __name__ == '__main__':`, since its processes read the script too; else build with workers=1 to see more."
    )


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Processes started in the block never see Ctrl-C, which a terminal sends to all: this process ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    resource_tracker.ensure_running()  # which would unblock SIGINT, were it started in the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(pipe: Connection, job: RankJob, threads: int) -> None:
    """What a process does."""
    from trtllm_ext.embedded.running.threads import THREADS_VARIABLE

    os.environ[THREADS_VARIABLE] = str(threads)
    # Whoever gave the work may be gone, or may have closed the pipe: then nobody wants it any more.
    with suppress(EOFError, ConnectionError):
        while (rank := pipe.recv()) is not None:
            try:
                own_plugins.use(job.plugin_library)
                config = build_rank(job, rank, lambda step, done: pipe.send(("step", step, done)))
            except ConnectionError:
                raise
            except Exception as problem:
                pipe.send(("failed", *told(rank, problem)))
                return
            pipe.send(("done", config))
