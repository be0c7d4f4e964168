"""When the ranks cannot go on together, and why: a decision over what each rank has last said of itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .wire import BEAT_S, SILENCE_S, SILENT

# A rank at work alone (loading, building) has so many times the timeout of an operation: 10 minutes for 10 s.
BUSY_FACTOR = 60
# Of a rank that has left, and of ranks in different operations, nothing more is to be expected. But what a waiting rank
# last said may be older than that news: it may be done since.
SETTLED_S = 3 * BEAT_S


@dataclass
class RankState:
    """What one rank has last said. seconds: how long it had been doing this when it was heard (a monotonic clock).

    busy_until: when it was heard to be no longer at work alone.
    """

    rank: int
    heard: float | None = None
    host: str = ""
    host_id: str = ""
    pid: int = 0
    kind: str = "absent"
    number: int = 0
    text: str = ""
    group: tuple[int, ...] | None = None
    seconds: float = 0.0
    is_stopped: bool = False
    is_gone: bool = False
    busy_until: float = float("-inf")

    def lasted(self, now: float) -> float:
        """Seconds that it has been doing this."""
        return self.seconds + (now - self.heard if self.heard is not None else 0.0)

    def told(self, now: float) -> str:
        """In words what it does."""
        subject = f"rank {self.rank}"
        since = f"for {self.lasted(now):.0f} s"
        after = f"after operation {self.number} ({self.text})" if self.text else "before its first operation"
        if self.is_stopped:
            return f"the process of {subject} is stopped (signal SIGSTOP or a debugger), {after}"
        if self.kind == "computing":
            return f"{subject} has been computing {since}, {after}"
        if self.kind == "busy":
            return f"{subject} has been busy {since}: {self.text}"
        return f"{subject} has been in {self.text} (operation {self.number}) {since}"

    def place(self) -> str:
        """Where it was last, to follow "rank 1 has died"; empty if nothing is known."""
        before = {"waiting": "in", "busy": "while", "computing": "after"}.get(self.kind)
        return f" {before} {self.text}" if before and self.text else ""


def names(ranks: Sequence[int]) -> str:
    """ "rank 1", "ranks 1 and 3", "ranks 1, 2, 3 and 12 more" """
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    if len(ranks) > 4:
        return f"ranks {', '.join(map(str, ranks[:3]))} and {len(ranks) - 3} more"
    return f"ranks {', '.join(map(str, ranks[:-1]))} and {ranks[-1]}"


def _have(ranks: Sequence[int]) -> str:
    return "has" if len(ranks) == 1 else "have"


def judge(states: Sequence[RankState], now: float, timeout: float) -> str | None:
    """Why the ranks must end, or None.

    states: of all ranks, by rank. timeout: seconds that a rank may wait for the others in one operation.
    """
    return _silent(states, now) or _late(states, now, timeout)


def _silent(states: Sequence[RankState], now: float) -> str | None:
    silent = [s for s in states if s.heard is not None and not s.is_gone and now - s.heard > SILENCE_S]
    if not silent:
        return None
    hosts = ", ".join(sorted({s.host for s in silent}))
    ranks = [s.rank for s in silent]
    return f"{names(ranks)} on {hosts} {_have(ranks)} {SILENT}"


def _late(states: Sequence[RankState], now: float, timeout: float) -> str | None:
    waiting = [s for s in states if s.kind == "waiting" and not s.is_stopped]
    for waiter in sorted(waiting, key=lambda s: -s.lasted(now)):
        verdict = _why_it_waits(waiter, states, now, timeout)
        if verdict:
            return verdict
    return None


def _why_it_waits(waiter: RankState, states: Sequence[RankState], now: float, timeout: float) -> str | None:
    lasted = waiter.lasted(now)
    if lasted < min(SETTLED_S, timeout):
        return None
    linked = _linked(waiter, states)
    at = f"{waiter.text} (operation {waiter.number})" if waiter.number else waiter.text
    away = [s for s in linked if s.kind != "waiting" or s.is_stopped]
    left = [s for s in away if s.kind == "left"]
    if left:
        if min(state.lasted(now) for state in left) < SETTLED_S:
            return None
        ended = [s.rank for s in left]
        return f"{names(ended)} {_have(ended)} left, but rank {waiter.rank} still waits in {at}"
    if lasted < timeout:
        return None
    if not away:
        return _all_wait(waiter, linked, at, now, timeout)
    absent = [s.rank for s in away if s.kind == "absent"]
    if absent:
        return f"{names(absent)} {_have(absent)} not started within {timeout:g} s: rank {waiter.rank} waits in {at}"
    if any(s.kind == "busy" and s.lasted(now) < BUSY_FACTOR * timeout for s in away):
        return None
    # After work alone a rank has as long as any other; what the waiting one last said is older than its end, too.
    if any(now - s.busy_until < timeout for s in away):
        return None
    late = [s.rank for s in away]
    return (
        f"{names(late)} {_have(late)} not arrived within {timeout:g} s at {at}, where rank {waiter.rank} "
        f"waits; {away[0].told(now)}"
    )


def _linked(waiter: RankState, states: Sequence[RankState]) -> list[RankState]:
    """Whom it waits for: the others of its group, and whom these wait for in turn."""
    found, ahead = {waiter.rank}, [waiter]
    while ahead:
        state = ahead.pop()
        if state.kind != "waiting":
            continue
        group = range(len(states)) if state.group is None else state.group
        new = [rank for rank in group if rank not in found]
        found.update(new)
        ahead.extend(states[rank] for rank in new)
    return [states[rank] for rank in sorted(found - {waiter.rank})]


def _all_wait(
    waiter: RankState, linked: Sequence[RankState], at: str, now: float, timeout: float
) -> str | None:
    strangers = [s for s in linked if s.text != waiter.text]
    shortest = min((s.lasted(now) for s in linked), default=timeout)
    if strangers and shortest >= SETTLED_S:
        other = strangers[0]
        return (
            f"ranks wait in different operations: rank {waiter.rank} in {at}, "
            f"rank {other.rank} in {other.text} (operation {other.number})"
        )
    if shortest < timeout:
        return None
    ranks = names(sorted([waiter.rank, *(s.rank for s in linked)]))
    return f"{at} has not ended within {timeout:g} s though {ranks} are in it: MPI's own link between them is down"
