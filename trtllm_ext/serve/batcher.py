"""Dynamic batching: requests wait while the engine runs, and those that fit each other run together."""

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from trtllm_ext.errors import InputError, RankError
from trtllm_ext.serve.joining import Arrays, Extent
from trtllm_ext.serve.refused import Reason, RefusalError
from trtllm_ext.serve.runner import Runner

logger = logging.getLogger(__name__)
_FAILED = "the engine failed while it ran this request; the server's log says why."
# The runner's thread is told of requests when so many turns of the loop have brought no others: what has come already
# runs together, instead of the first alone and the others after it. A turn takes 10 us.
_QUIET_TURNS = 2
_GONE = "the engine can run no more, and the server ends; its log says why."


class Observer(Protocol):
    """Who counts what a batcher does; called by its thread."""

    def ran(self, requests: int, rows: int, waited_s: list[float], took_s: float) -> None:
        """A batch of so many requests and rows has run."""


@dataclass(eq=False)
class _Request:
    arrays: Arrays
    extent: Extent
    future: "asyncio.Future[Arrays]"
    since: float = field(default_factory=time.monotonic)


class Batcher:
    """A runner's own thread, and the queue before it.

    max_rows: most rows that are joined, None for what the runner's limits allow. max_delay_s: how long the first
    request of a batch waits for others while the runner is free. max_queue: most requests that wait.
    on_end: called by the thread with an exception after which the runner can run no more.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        max_rows: int | None = None,
        max_delay_s: float = 0.0,
        max_queue: int = 512,
        observer: Observer | None = None,
        on_end: Callable[[BaseException], None] | None = None,
    ) -> None:
        self.runner = runner
        self._max_rows = max_rows
        self._max_delay_s = max_delay_s
        self._max_queue = max_queue
        self._observer = observer
        self._on_end = on_end
        self._waiting: deque[_Request] = deque()
        self._running: list[_Request] = []
        self._changed = threading.Condition()
        self._is_closing = False
        self._is_looking = False
        self._end: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._work, name="trtllm_ext runner", daemon=True)

    def start(self) -> None:
        """Start the runner's thread."""
        self._thread.start()

    def __len__(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    @property
    def unanswered(self) -> int:
        """How many requests wait or run."""
        return len(self._waiting) + len(self._running)

    async def submit(self, arrays: Arrays) -> Arrays:
        """The outputs for one request's inputs.

        Raises InputError for inputs that the runner refuses, RefusalError when too many wait, or when the run fails.
        """
        self.runner.check(arrays)
        extent = self.runner.joining.extent(arrays) if self.runner.joining else Extent(1)
        self._loop = asyncio.get_running_loop()
        return await self._put(_Request(arrays, extent, self._loop.create_future())).future

    def close(self, timeout_s: float | None = None) -> bool:
        """Run what waits, close the runner, end the thread; whether that was done in time."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _put(self, request: _Request) -> _Request:
        with self._changed:
            if self._end is not None:
                raise RefusalError(Reason.STOPPING, _GONE)
            if self._is_closing:
                raise RefusalError(Reason.STOPPING, "the server is stopping; ask another one, or later.")
            if len(self._waiting) >= self._max_queue:
                raise RefusalError(
                    Reason.QUEUE_FULL,
                    f"{self._max_queue} request(s) are waiting, the most that this server lets wait (max_queue_size); "
                    f"try again later.",
                )
            self._waiting.append(request)
        # A thread that runs looks for others by itself.
        if not self._is_looking and not self._running:
            self._is_looking = True
            self._look(request.future.get_loop(), seen=0, quiet=0)
        return request

    def _look(self, loop: asyncio.AbstractEventLoop, seen: int, quiet: int) -> None:
        """Wake the runner's thread when no others have come, or look again in the loop's next turn."""
        count = len(self._waiting)
        quiet = 0 if count > seen else quiet + 1
        if quiet < _QUIET_TURNS:
            loop.call_soon(self._look, loop, count, quiet)
            return
        self._is_looking = False
        with self._changed:
            self._changed.notify()

    # --- the runner's thread ------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while (batch := self._next()) is not None:
                self._answer(batch)
                self._running = []
            self.runner.close()
        except BaseException as problem:
            self._give_up(problem)

    def _give_up(self, problem: BaseException) -> None:
        with self._changed:
            self._end = problem
            left = [*self._running, *self._waiting]
            self._waiting.clear()
        self._running = []
        self._deliver([(request, RefusalError(Reason.STOPPING, _GONE)) for request in left])
        if self._on_end is not None:
            self._on_end(problem)

    def _next(self) -> list[_Request] | None:
        """The next batch; None when all is done. Beats while there is none."""
        while True:
            with self._changed:
                if self._wait_for_work():
                    self._running = self._take()
                    if self._running:
                        return self._running
                    continue
                if self._is_closing:
                    return None
            self.runner.beat()

    def _wait_for_work(self) -> bool:
        beat_s = self.runner.beat_s
        if not self._waiting and not self._is_closing:
            self._changed.wait_for(lambda: self._waiting or self._is_closing, beat_s)
        if not self._waiting:
            return False
        if self._max_delay_s and self.runner.joining is not None:
            until = self._waiting[0].since + self._max_delay_s
            self._changed.wait_for(self._is_enough, max(0.0, until - time.monotonic()))
        return True

    def _is_enough(self) -> bool:
        """Whether waiting longer would join nothing more."""
        return self._is_closing or len(self._chosen()) < len(self._waiting) or self._is_full(self._waiting)

    def _is_full(self, requests: "deque[_Request] | list[_Request]") -> bool:
        joining = self.runner.joining
        return joining is None or sum(request.extent.rows for request in requests) >= self._most(
            joining.most_rows()
        )

    def _most(self, rows: int) -> int:
        return rows if self._max_rows is None else min(rows, self._max_rows)

    def _take(self) -> list[_Request]:
        chosen = self._chosen()
        kept = set(map(id, chosen))
        self._waiting = deque(request for request in self._waiting if id(request) not in kept)
        # One whose client is gone need not run.
        return [request for request in chosen if not request.future.cancelled()]

    def _chosen(self) -> list[_Request]:
        """The first that waits, and all of its group that fit with it, in their order."""
        first, joining = self._waiting[0], self.runner.joining
        chosen, extent = [first], first.extent
        if joining is None:
            return chosen
        most, group = self._most(joining.most_rows()), joining.group(extent)
        for request in list(self._waiting)[1:]:
            if extent.rows >= most:
                break
            both = joining.together(extent, request.extent)
            if joining.group(request.extent) == group and both.rows <= most and joining.fits(both):
                chosen.append(request)
                extent = both
        return chosen

    def _answer(self, batch: list[_Request]) -> None:
        begin = time.monotonic()
        try:
            answers = self._run(batch)
        except RankError:
            raise
        except Exception as problem:
            if len(batch) > 1:
                for request in batch:
                    self._answer([request])
                return
            self._deliver([(batch[0], _told(problem))])
            return
        if self._observer is not None:
            waited = [begin - request.since for request in batch]
            rows = sum(request.extent.rows for request in batch)
            self._observer.ran(len(batch), rows, waited, time.monotonic() - begin)
        self._deliver(list(zip(batch, answers, strict=True)))

    def _run(self, batch: list[_Request]) -> list[Arrays]:
        joining = self.runner.joining
        if len(batch) == 1 or joining is None:
            return [self.runner.run(batch[0].arrays)]
        outputs = self.runner.run(joining.join([(request.arrays, request.extent) for request in batch]))
        return joining.split(outputs, [request.extent for request in batch])

    def _deliver(self, answers: "list[tuple[_Request, Arrays | Exception]]") -> None:
        """Hand answers over to the loop that waits for them, all with one call."""
        if self._loop is not None and answers:
            with contextlib.suppress(RuntimeError):  # a loop that was closed waits for nothing
                self._loop.call_soon_threadsafe(_hand_over, answers)


def _hand_over(answers: "list[tuple[_Request, Arrays | Exception]]") -> None:
    for request, answer in answers:
        if request.future.done():  # cancelled: its client is gone
            continue
        if isinstance(answer, Exception):
            request.future.set_exception(answer)
        else:
            request.future.set_result(answer)


def _told(problem: Exception) -> Exception:
    """What a client learns of a failed run; the log has the rest."""
    if isinstance(problem, InputError | RefusalError):
        return problem
    logger.error(
        "a run failed: %s: %s", type(problem).__name__, problem, exc_info=logger.isEnabledFor(logging.INFO)
    )
    return RefusalError(Reason.ENGINE, _FAILED)
