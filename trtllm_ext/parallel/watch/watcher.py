"""The process beside a rank: it speaks for the rank to the hub, and ends the rank when the hub says so.

Its standard input carries the rank's messages, one JSON object a line; the end of it means that the rank is no more.
Its standard output carries answers to the rank.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
import selectors
import signal
import socket
import sys
import time
from pathlib import Path

from . import addresses, processes, wire
from .hub import Hub

# How long a rank gets to end itself; how long the last words to and from the hub may take.
_OWN_END_S = 1.0
_LAST_WORDS_S = 2.0
# A launcher may wait for ever for a host that is cut off. It gets so long to end, and again when it was asked to.
_LAUNCHER_S = 2.0
_START = "MPI_Init"


def main() -> None:
    first = b""
    while not first.endswith(b"\n"):
        byte = os.read(sys.stdin.fileno(), 1)  # one by one, since what follows is for the watcher
        if not byte:
            return
        first += byte
    _Watcher(**wire.Lines().feed(first)[0]).watch()


class _Watcher:
    """rank, world_size: whom it watches. state_fd: shared bytes, `wire.STATE`. timeout: seconds. pid: the rank's."""

    def __init__(self, rank: int, world_size: int, state_fd: int, timeout: float, pid: int) -> None:
        self._name = f"rank {rank} of {world_size}"
        self._rank, self._world_size, self._timeout, self._pid = rank, world_size, timeout, pid
        self._launcher = processes.launcher_of(pid)
        self._has_lost_host = False
        self._state = mmap.mmap(state_fd, wire.STATE.size, access=mmap.ACCESS_READ)
        self._words: dict[int, tuple[str, list[int] | None]] = {0: ("", None), 1: (_START, None)}
        self._rank_lines, self._hub_lines = wire.Lines(), wire.Lines()
        self._hub: Hub | None = None
        self._socket: socket.socket | None = None
        self._hub_heard = self._since = time.monotonic()
        self._hub_host = self._hub_place = ""
        self._last = (-1, -1)
        self._is_alone = True  # no hub decides yet, or any more
        self._over = self._in_order = False
        self._shared: set[str] = set()  # files to remove after a rank that could not
        self._selector = selectors.DefaultSelector()
        self._selector.register(sys.stdin, selectors.EVENT_READ)

    def watch(self) -> None:
        next_beat = 0.0
        while not self._over:
            for key, _ in self._selector.select(max(0.0, next_beat - time.monotonic())):
                if key.fileobj is sys.stdin:
                    self._hear_rank()
                else:
                    self._hear_hub()
                if self._over:
                    break
            now = time.monotonic()
            if now >= next_beat and not self._over:
                next_beat = now + wire.BEAT_S
                self._beat(now)
        self._leave()
        if self._has_lost_host and self._launcher is not None:
            processes.end(self._launcher, _LAUNCHER_S)

    # The rank's side

    def _hear_rank(self) -> None:
        received = os.read(sys.stdin.fileno(), 1 << 16)
        if not received:
            return self._rank_died()
        for message in self._rank_lines.feed(received):
            self._obey(message)
        return None

    def _obey(self, message: wire.Message) -> None:
        if "words" in message:
            self._words[message["words"]] = (message["text"], message["group"])
        elif "serve" in message:
            self._hub = Hub(self._world_size, self._timeout, everywhere=message["serve"])
            hosts = addresses.own_addresses() if message["serve"] else ["127.0.0.1"]
            place = {"place": f"rank {self._rank}", "hosts": hosts}
            self._answer({"hub": {**place, "port": self._hub.port, "token": self._hub.token}})
        elif "hub" in message:
            self._connect(message["hub"])
        elif "failed" in message:
            if not self._say(message):
                self._end(f"rank {self._rank} failed: {message['failed']}")
        elif "look" in message:
            self._beat(time.monotonic())
        elif "bye" in message:
            self._say({"bye": True})
            self._over = self._in_order = True

    def _answer(self, message: wire.Message) -> None:
        with contextlib.suppress(OSError):
            os.write(sys.stdout.fileno(), wire.encode(message))

    def _rank_died(self) -> None:
        """The rank's process has ended without a goodbye, of itself or by a launcher that reaps all ranks."""
        self._selector.unregister(sys.stdin)
        self._over = True
        ended = {"died": time.time(), "signal": processes.ended_by(self._pid)}
        if not self._say({**self._look(time.monotonic()), **ended}):
            return
        verdict = self._await_verdict(_LAST_WORDS_S)
        if verdict:
            self._print(verdict)

    # The hub's side

    def _connect(self, hub: wire.Message) -> None:
        deadline = time.monotonic() + self._timeout
        self._hub_place = hub["place"]
        while time.monotonic() < deadline and os.getppid() == self._pid:
            for host in hub["hosts"]:
                with contextlib.suppress(OSError, ValueError, LookupError):
                    self._socket, self._hub_lines = _introduced(host, hub["port"], hub["token"], self._rank)
                    self._selector.register(self._socket, selectors.EVENT_READ)
                    self._hub_heard, self._hub_host, self._is_alone = time.monotonic(), host, False
                    self._beat(time.monotonic())
                    return
            time.sleep(0.1)
        where = " or ".join(hub["hosts"])
        self._end(
            f"rank 0's watch at {where}, port {hub['port']}, cannot be reached from {socket.gethostname()}"
        )

    def _say(self, message: wire.Message) -> bool:
        """Send it to the hub. Whether there is one."""
        if self._socket is None:
            return False
        try:
            self._socket.sendall(wire.encode(message))
        except OSError:
            return False
        return True

    def _hear_hub(self) -> None:
        assert self._socket is not None
        try:
            received = self._socket.recv(1 << 16)
        except OSError:
            received = b""
        if not received:
            self._selector.unregister(self._socket)
            if not self._is_alone:
                self._end(f"{self._hub_place} at {self._hub_host} is gone: its process was killed")
            return
        self._take_hub(received)

    def _take_hub(self, received: bytes) -> None:
        self._hub_heard = time.monotonic()
        for message in self._hub_lines.feed(received):
            if "verdict" in message:
                self._end(message["verdict"])
                break
            if "signal" in message:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._pid, message["signal"])
            if "all_joined" in message or "all_left" in message:
                self._is_alone = "all_left" in message
                self._since = time.monotonic()
                self._shared |= processes.shared_memory(self._pid)
                self._answer(message)

    def _await_verdict(self, seconds: float) -> str | None:
        assert self._socket is not None
        deadline = time.monotonic() + seconds
        with contextlib.suppress(OSError, ValueError):
            while (left := deadline - time.monotonic()) > 0:
                self._socket.settimeout(left)
                received = self._socket.recv(1 << 16)
                for message in self._hub_lines.feed(received):
                    if "verdict" in message:
                        return str(message["verdict"])
                if not received:
                    break
        return None

    # What both sides' silence means

    def _beat(self, now: float) -> None:
        state = self._look(now)
        if os.getppid() != self._pid:
            self._rank_died()
        elif self._is_alone:
            if state["kind"] == "waiting" and state["seconds"] > self._timeout:
                self._end(self._why_alone(state["text"]))
        elif self._socket is not None and now - self._hub_heard > wire.SILENCE_S:
            self._end(f"{self._hub_place} at {self._hub_host} has {wire.SILENT}")
        else:
            self._say(state)

    def _look(self, now: float) -> wire.Message:
        """What the rank does, as the hub is told it."""
        number, kind, words = wire.STATE.unpack(self._state[: wire.STATE.size])
        is_stopped = processes.is_stopped(self._pid)
        if (number, kind) != self._last or is_stopped:
            self._last, self._since = (number, kind), now
        text, group = self._words.get(words, ("", None))
        return {
            "host": socket.gethostname(),
            "host_id": processes.host_id(),
            "pid": self._pid,
            "kind": wire.KINDS[kind],
            "number": number,
            "text": text,
            "group": group,
            "seconds": now - self._since,
            "is_stopped": is_stopped,
        }

    def _why_alone(self, text: str) -> str:
        others = f"rank {1 - self._rank}" if self._world_size == 2 else "another rank"
        if text == _START:
            return (
                f"{others} has not started: rank {self._rank} has waited {self._timeout:g} s for it in {text}"
            )
        return f"rank {self._rank} has waited {self._timeout:g} s for {others} in {text}"

    def _end(self, verdict: str) -> None:
        """Say why, and end the rank."""
        self._over, self._has_lost_host = True, verdict.endswith(wire.SILENT)
        self._shared |= processes.shared_memory(self._pid)
        self._print(verdict)
        self._answer({"end": True})
        self._selector.close()
        deadline = time.monotonic() + _OWN_END_S
        while os.getppid() == self._pid and time.monotonic() < deadline:
            time.sleep(0.02)
        if os.getppid() == self._pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)

    def _print(self, verdict: str) -> None:
        with contextlib.suppress(OSError):
            os.write(2, f"trtllm-ext: {self._name} ends: {verdict}\n".encode())

    def _leave(self) -> None:
        """Wait, beside the hub, until the others have heard its last word."""
        for path in self._shared if not self._in_order else ():
            with contextlib.suppress(OSError):
                Path(path).unlink()
        if self._hub is not None:
            deadline = time.monotonic() + _LAST_WORDS_S
            while self._hub.connected > 1 and time.monotonic() < deadline:
                time.sleep(0.02)
        if self._socket is not None:
            self._socket.close()
        if self._hub is not None:
            self._hub.stop()


def _introduced(host: str, port: int, token: str, rank: int) -> tuple[socket.socket, wire.Lines]:
    """A connection to a hub that has taken this rank in, and has proved that it knows the token, as this one does.

    Raises OSError, ValueError or LookupError if it has not.
    """
    connection = socket.create_connection((host, port), timeout=1.0)
    try:
        lines = wire.Lines()
        own = secrets.token_hex(16)
        answer = wire.answer_to(_next(connection, lines)["challenge"], token, str(rank))
        connection.sendall(wire.encode({"rank": rank, "answer": answer, "challenge": own}))
        welcome = _next(connection, lines)
        if welcome["welcome"] != rank:
            raise ValueError("the hub takes this rank for another one")
        if not wire.is_answer(welcome["answer"], own, token, wire.HUB):
            raise ValueError("what answers is not the hub")
        connection.settimeout(wire.SILENCE_S)
        return connection, lines
    except BaseException:
        connection.close()
        raise


def _next(connection: socket.socket, lines: wire.Lines) -> wire.Message:
    while received := connection.recv(1 << 16):
        messages = lines.feed(received)
        if messages:
            lines.put_back(messages[1:])
            return messages[0]
    raise OSError("the connection closed")
