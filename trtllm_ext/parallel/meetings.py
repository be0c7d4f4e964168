"""Where ranks that are threads meet: who has come to which operation, who is late, and what ends all of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from trtllm_ext.errors import RankError
from trtllm_ext.parallel.ordered_sum import two_threads
from trtllm_ext.parallel.watch.verdicts import BUSY_FACTOR


@dataclass(eq=False)
class _Meeting:
    """One operation of one group: who has come, with what; the last to come does it for all."""

    group: tuple[int, ...]
    description: str
    first: int
    condition: threading.Condition
    arrived: dict[int, Any] = field(default_factory=dict)
    done: bool = False


class Meetings:
    """The operations of `size` ranks, each of which calls from a thread of its own.

    timeout: seconds that an operation waits for its other ranks.
    Once failed, they stay failed: every operation raises RankError with the first cause.
    """

    def __init__(self, size: int, timeout: float) -> None:
        if size < 1:
            raise RankError(f"a world of {size} ranks is not possible; at least 1")
        self.size, self.timeout = size, timeout
        self.failed_rank: int | None = None
        self._failure = ""
        self._lock = threading.Lock()
        self._meetings: dict[tuple[int, ...], _Meeting] = {}
        self._waiting: dict[int, _Meeting] = {}
        self._busy: dict[int, tuple[str, float]] = {}
        self._was_busy: dict[int, float] = {}
        self._left: set[int] = set()

    def meet(
        self,
        rank: int,
        group: tuple[int, ...],
        description: str,
        given: Any,
        act: Callable[[list[Any]], None],
    ) -> None:
        """Wait until every rank of the group has come; the last one calls `act` with what they gave, in group order.

        Raises RankError on every rank if one does not come in time, asks for something else, has left or failed.
        """
        with self._lock:
            self.raise_failure()
            meeting = self._join(rank, group, description)
            meeting.arrived[rank] = given
            if len(meeting.arrived) == len(group):
                del self._meetings[group]
                try:
                    act([meeting.arrived[member] for member in group])
                except BaseException as error:
                    self._end_meeting(meeting, rank, error)
                    raise
                meeting.done = True
                meeting.condition.notify_all()
                return
            self._waiting[rank] = meeting
            try:
                self._wait(rank, meeting)
            finally:
                del self._waiting[rank]

    def _end_meeting(self, meeting: _Meeting, rank: int, error: BaseException) -> None:
        self._note_failure(rank, f"rank {rank} failed: {type(error).__name__}: {error}")
        meeting.condition.notify_all()

    def _join(self, rank: int, group: tuple[int, ...], description: str) -> _Meeting:
        if rank in self._waiting:
            self._fail(
                rank, f"rank {rank} failed: {two_threads(description, self._waiting[rank].description)}"
            )
        for member in group:
            other = self._waiting.get(member)
            # Each would wait for the other for ever. (Longer circles end at the deadline.)
            if other is not None and not other.done and other.group != group and rank in other.group:
                self._fail(
                    rank, f"rank {rank} called {description} where rank {member} called {other.description}"
                )
        meeting = self._meetings.get(group)
        if meeting is None:
            meeting = _Meeting(group, description, rank, threading.Condition(self._lock))
            self._meetings[group] = meeting
        elif meeting.description != description:
            self._fail(
                rank,
                f"rank {rank} called {description} where rank {meeting.first} called {meeting.description}",
            )
        return meeting

    def _wait(self, rank: int, meeting: _Meeting) -> None:
        begin = time.monotonic()
        while not meeting.done:
            self.raise_failure()
            missing = [member for member in meeting.group if member not in meeting.arrived]
            late, left = min(
                ((member, self._time_for(member, begin)) for member in missing), key=lambda pair: pair[1]
            )
            if late in self._left:
                self._fail(late, f"rank {late} has left; rank {rank} waits for it in {meeting.description}")
            if left <= 0:
                self._fail(late, self._lateness(late, meeting))
            meeting.condition.wait(left)

    def _time_for(self, member: int, begin: float) -> float:
        """Seconds that a rank which has not come may still take; those that have left none."""
        if member in self._left:
            return 0.0
        if member in self._busy:
            return self._busy[member][1] + BUSY_FACTOR * self.timeout - time.monotonic()
        return max(begin, self._was_busy.get(member, begin)) + self.timeout - time.monotonic()

    def _lateness(self, late: int, meeting: _Meeting) -> str:
        text = f"rank {late} did not come to {meeting.description} within {self.timeout:g} s"
        if late in self._busy:
            text += f" times {BUSY_FACTOR}, which a rank at work alone has; it is still {self._busy[late][0]}"
        elif late in self._waiting:
            text += f"; it waits in {self._waiting[late].description}"
        return text

    def raise_failure(self) -> None:
        """Raises RankError if the world has failed, with the first cause."""
        if self._failure:
            raise RankError(self._failure)

    def _note_failure(self, rank: int, message: str) -> None:
        if not self._failure:
            self.failed_rank, self._failure = rank, message
        self._wake()

    def _fail(self, rank: int, message: str) -> None:
        self._note_failure(rank, message)
        self.raise_failure()

    def _wake(self) -> None:
        for meeting in self._meetings.values():
            meeting.condition.notify_all()

    def fail(self, rank: int, message: str) -> None:
        """Note that a rank has failed; every operation, begun or not, raises RankError with this cause."""
        with self._lock:
            self._note_failure(rank, f"rank {rank} failed: {message}")

    def leave(self, rank: int) -> None:
        """A rank takes part no longer; who waits for it gets RankError."""
        with self._lock:
            self._left.add(rank)
            self._wake()

    @contextmanager
    def busy(self, rank: int, what: str) -> Iterator[None]:
        with self._lock:
            outer = self._busy.get(rank)
            self._busy[rank] = (what, time.monotonic())
        try:
            yield
        finally:
            with self._lock:
                if outer is None:
                    del self._busy[rank]
                else:
                    self._busy[rank] = outer
                self._was_busy[rank] = time.monotonic()
                self._wake()
