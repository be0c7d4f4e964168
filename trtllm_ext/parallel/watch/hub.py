"""The one place that hears of every rank, decides that they cannot go on, and tells all of them why."""

from __future__ import annotations

import contextlib
import os
import secrets
import selectors
import socket
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from . import processes, verdicts, wire
from .verdicts import RankState

_TICK_S = 0.1
# Deaths that follow from one another (a launcher ends the others) arrive together; the first of them is the cause.
_DEATHS_S = 0.2
_SETTLE_S = 1.0
_RECENT_S = 4 * wire.BEAT_S


@dataclass
class _Death:
    """heard: by the hub's monotonic clock. at: seconds of its host's clock. lost: how its connection was lost, if so.

    signal: what ended it, as far as known.
    """

    heard: float
    at: float
    state: RankState
    lost: str | None
    signal: int = 0

    def told(self) -> str:
        if self.lost is not None:
            return f"rank {self.state.rank} on {self.state.host} is gone: {self.lost}"
        place = self.state.place()
        if self.signal:
            return f"rank {self.state.rank} was ended by {processes.signal_name(self.signal)}{place}"
        return f"rank {self.state.rank} has died{place}: its process was killed, or ended without leaving the others"


@dataclass
class _Connection:
    """One watcher's end. rank: None until it has proved that it knows the token. unsent: has waited for room."""

    socket: socket.socket
    challenge: str
    since: float
    lines: wire.Lines = field(default_factory=wire.Lines)
    rank: int | None = None
    unsent: bytes = b""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, message: wire.Message) -> None:
        """Send it, after what is still unsent; whole, though perhaps not yet."""
        with self.lock:
            self.unsent += wire.encode(message)
        self.flush()

    def flush(self) -> None:
        """Send of what is unsent as much as there is room for."""
        # That a link is broken shows in reading; without room, silence decides.
        with self.lock, contextlib.suppress(OSError):
            while self.unsent:
                self.unsent = self.unsent[self.socket.send(self.unsent) :]


class Hub:
    """Hears the watchers of `world_size` ranks from a thread of its own, until `stop`.

    timeout: seconds that a rank may wait for the others in one operation. everywhere: listen on all interfaces instead
    of loopback alone. address: [port, token]; who connects proves that it knows the token.
    verdict: the sentence that ended the ranks, or None. dead: the rank whose death it was, if it was
    one, unless its signal is in the verdict.
    """

    def __init__(self, world_size: int, timeout: float, *, everywhere: bool = False) -> None:
        self.states = [RankState(rank) for rank in range(world_size)]
        self.token = secrets.token_hex(16)
        self.verdict: str | None = None
        self.dead: int | None = None
        self._timeout = timeout
        self._listener = _listen(everywhere)
        self.port: int = self._listener.getsockname()[1]
        self._connections: dict[int, _Connection] = {}
        self._deaths: list[_Death] = []
        self._processes: list[int] = []
        self._told_joined = self._all_left = False
        self._stopping = threading.Event()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._thread = threading.Thread(target=self._serve, name="trtllm_ext hub", daemon=True)
        self._thread.start()

    @property
    def connected(self) -> int:
        """How many ranks are connected."""
        return sum(connection.rank is not None for connection in list(self._connections.values()))

    def end(self, verdict: str) -> None:
        """End all ranks for this reason, unless they have one already."""
        if not self.is_over:
            self.verdict = verdict
            self._broadcast({"verdict": verdict})

    def signal(self, rank: int, number: int) -> bool:
        """Have a rank's watcher send it a signal. Whether that one is connected, and nothing has ended the ranks."""
        for connection in list(self._connections.values()):
            if connection.rank == rank and not self.is_over:
                connection.send({"signal": number})
                return True
        return False

    def settle(self) -> None:
        """Return when every death that was heard of has led to a verdict, and all connections are closed or late."""
        deadline = time.monotonic() + _SETTLE_S
        while time.monotonic() < deadline and (self.connected or (self._deaths and not self.is_over)):
            time.sleep(_TICK_S / 2)

    @property
    def is_over(self) -> bool:
        """Nothing more is to be decided: there is a verdict, or all ranks have left."""
        return self.verdict is not None or self._all_left

    def stop(self) -> None:
        """Close every connection and the port."""
        self._stopping.set()
        self._thread.join()

    def _serve(self) -> None:
        try:
            self._watch()
        except Exception as error:  # whatever it is, ranks must not wait for a hub that is no more
            self.end(f"the watch over the ranks failed: {type(error).__name__}: {error}")
        connections = list(self._connections.values())
        self._connections.clear()  # first: who sees the end of one sees that none is left
        for connection in connections:
            connection.socket.close()
        for descriptor in self._processes:
            os.close(descriptor)
        self._selector.close()
        self._listener.close()

    def _watch(self) -> None:
        next_beat = 0.0
        while not self._stopping.is_set():
            for key, _ in self._selector.select(_TICK_S):
                key.data()
            now = time.monotonic()
            self._decide(now)
            if now >= next_beat:
                next_beat = now + wire.BEAT_S
                self._broadcast({"pulse": self.states[0].host})
            for connection in list(self._connections.values()):
                connection.flush()

    def _accept(self) -> None:
        try:
            accepted, _ = self._listener.accept()
        except OSError:  # it has gone again, or this process has no room for another connection
            return
        accepted.setblocking(False)
        connection = _Connection(accepted, secrets.token_hex(16), time.monotonic())
        self._connections[accepted.fileno()] = connection
        self._selector.register(accepted, selectors.EVENT_READ, partial(self._hear, connection))
        connection.send({"challenge": connection.challenge})

    def _hear(self, connection: _Connection) -> None:
        try:
            received = connection.socket.recv(1 << 16)
            messages = connection.lines.feed(received)
        except BlockingIOError:
            return
        except (OSError, ValueError) as error:
            self._lose(connection, f"its connection broke: {error}")
            return
        for message in messages:
            if connection.rank is not None:
                self._note(self.states[connection.rank], message)
            elif not self._admit(connection, message):
                received = b""
        if not received:
            self._lose(connection, "its connection closed")

    def _admit(self, connection: _Connection, message: wire.Message) -> bool:
        rank = message.get("rank")
        if type(rank) is not int or not 0 <= rank < len(self.states):
            return False
        if not wire.is_answer(message.get("answer"), connection.challenge, self.token, str(rank)):
            return False
        # A process that a rank started has its variables, and must not speak for it.
        if any(other.rank == rank for other in self._connections.values()):
            return False
        connection.rank = rank
        proof = wire.answer_to(message.get("challenge", ""), self.token, wire.HUB)
        connection.send({"welcome": rank, "answer": proof})
        if self.verdict:
            connection.send({"verdict": self.verdict})
        return True

    def _note(self, state: RankState, message: wire.Message) -> None:
        if state.heard is None:
            self._watch_process(message.get("host_id"), state, message.get("pid"))
        state.heard = time.monotonic()
        if state.kind == "busy" and message.get("kind", "busy") != "busy":
            state.busy_until = state.heard
        for name in ("host", "host_id", "pid", "kind", "number", "text", "seconds", "is_stopped"):
            if name in message:
                setattr(state, name, message[name])
        if "group" in message:
            state.group = tuple(message["group"]) if message["group"] is not None else None
        if "failed" in message:
            self.end(f"rank {state.rank} failed: {message['failed']}")
        if "died" in message:
            self._died(state, message["died"], message["signal"])
        if "bye" in message:
            state.kind, state.is_gone = "left", True

    def _lose(self, connection: _Connection, why: str) -> None:
        self._selector.unregister(connection.socket)
        self._connections.pop(connection.socket.fileno(), None)
        connection.socket.close()
        if connection.rank is None:
            return
        self._died(self.states[connection.rank], time.time(), lost=why)

    def _watch_process(self, host_id: str | None, state: RankState, pid: Any) -> None:
        """The system tells in which order processes of this host end; their watchers may be heard in another one."""
        if host_id != processes.host_id() or not isinstance(pid, int):
            return
        with contextlib.suppress(OSError, AttributeError):  # an older system, or a process that has ended
            descriptor = os.pidfd_open(pid)
            self._processes.append(descriptor)
            self._selector.register(descriptor, selectors.EVENT_READ, partial(self._ended, descriptor, state))

    def _ended(self, descriptor: int, state: RankState) -> None:
        self._selector.unregister(descriptor)
        # Of a rank that had fallen silent, the silence is the cause: its watcher ends it when it hears nothing either.
        if state.heard is not None and time.monotonic() - state.heard < _RECENT_S:
            self._died(state, time.time(), processes.ended_by(state.pid))

    def _died(self, state: RankState, at: float, signal: int = 0, lost: str | None = None) -> None:
        for death in self._deaths:
            if death.state is state:  # heard of twice, which may tell more
                death.signal = death.signal or signal
        if not state.is_gone:
            state.is_gone = True
            self._deaths.append(_Death(time.monotonic(), at, state, lost, signal))

    def _decide(self, now: float) -> None:
        for connection in list(self._connections.values()):
            if connection.rank is None and now - connection.since > wire.SILENCE_S:
                self._lose(connection, "")
        if self.is_over:
            return
        if self._deaths:
            if now - self._deaths[0].heard > _DEATHS_S:
                first = _first(self._deaths)
                self.dead = first.state.rank if not first.signal and first.lost is None else None
                self.end(first.told())
        else:
            verdict = verdicts.judge(self.states, now, self._timeout)
            if verdict:
                self.end(verdict)
        if not self._told_joined and all(state.heard is not None for state in self.states):
            self._told_joined = True
            self._broadcast({"all_joined": True})
        if self.verdict is None and all(state.kind == "left" for state in self.states):
            self._all_left = True
            self._broadcast({"all_left": True})

    def _broadcast(self, message: wire.Message) -> None:
        for connection in list(self._connections.values()):
            if connection.rank is not None:
                connection.send(message)


def _first(deaths: list[_Death]) -> _Death:
    """The one that the others followed from. Clocks of two hosts may differ; then what was heard first counts."""
    same_host = [death for death in deaths if death.state.host_id == deaths[0].state.host_id]
    return min(same_host, key=lambda death: death.at)


def _listen(everywhere: bool) -> socket.socket:
    options: dict[str, Any] = {"backlog": 512}
    if not everywhere:
        return socket.create_server(("127.0.0.1", 0), **options)
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True, **options)
    return socket.create_server(("", 0), **options)
