"""A server on rank 0 whose requests all ranks run."""

import signal
import threading
from collections.abc import Callable

from trtllm_ext.parallel import Communicator
from trtllm_ext.runtime import LeadingSession, Session, lead
from trtllm_ext.runtime.ranks.following import LEADER, LED_SIGNALS

# What serves, given the session that it runs and where it leaves word of how to ask it to end.
Serve = Callable[[LeadingSession, "Leaving"], None]


class Leaving:
    """A server that others may ask to leave, from any thread, before it is there too; how often makes no difference."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._leave: Callable[[], None] | None = None
        self._is_asked = False

    def ask(self) -> None:
        """Have the server answer what it has accepted, and end."""
        with self._lock:
            self._is_asked = True
            leave = self._leave
        if leave is not None:
            leave()

    def is_done_by(self, leave: Callable[[], None]) -> None:
        """`leave` is how; called at once where somebody has asked."""
        with self._lock:
            self._leave = leave
            is_asked = self._is_asked
        if is_asked:
            leave()


def serve_over_ranks(session: Session, world: Communicator, serve: Serve) -> None:
    """Call `serve(session, leaving)` on rank 0; the others run what it runs, until it returns.

    SIGTERM or SIGINT to any rank asks the server to leave; on the others they have no effect after it either.
    Raises RankError on all ranks for what `serve` raises.
    """
    leaving = Leaving()
    if world.rank != LEADER and threading.current_thread() is threading.main_thread():
        # Rank 0 may have left when a launcher that sends a signal to all ranks comes to this one.
        for number in LED_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
    lead(session, world, lambda leading: serve(leading, leaving), lambda number: leaving.ask())
