"""A rank's own side of the watch over ranks that are processes."""

from __future__ import annotations

import atexit
import json
import mmap
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from trtllm_ext.errors import RankError
from trtllm_ext.parallel.watch import addresses, wire

HUB_VARIABLE = "TRTLLM_EXT_HUB"

_START = 1  # the id of the words for MPI_Init
_PACKAGE = Path(__file__).parent
_COMMAND = "import sys; sys.path.append(sys.argv[1]); from watch.watcher import main; main()"
# A failed rank lives this long at most, for its watcher to tell the others.
_LAST_WORDS_S = 3.0

Exchange = Callable[[Any], Sequence[Any]]


class Monitor:
    """Watches this rank and, through it, all others: a fault of one ends the processes of all with its name and cause.

    Make it before MPI starts, since a rank may be waited for in MPI_Init already; then `join`. The process ends itself
    when it leaves the interpreter without `close`, too: it waits for the others as `close` does.
    rank, world_size: this process's. timeout: seconds that a rank may wait for the others in one operation.
    """

    def __init__(self, rank: int, world_size: int, timeout: float) -> None:
        self.rank, self.world_size, self.timeout = rank, world_size, timeout
        self._number = 0
        self._words: dict[tuple[str, tuple[int, ...] | None], int] = {}
        self._finalize: Callable[[], object] | None = None
        self._is_closed = False
        self._pid = os.getpid()
        self._send_lock = threading.Lock()
        self._answers: queue.SimpleQueue[wire.Message] = queue.SimpleQueue()
        self._joined, self._all_left = threading.Event(), threading.Event()
        with tempfile.TemporaryFile() as shared:
            shared.truncate(wire.STATE.size)
            self._state = mmap.mmap(shared.fileno(), wire.STATE.size)
            self._set(wire.WAITING, _START)
            self._watcher = self._start_watcher(shared.fileno())
        self._listener = threading.Thread(target=self._listen, name="trtllm_ext monitor", daemon=True)
        self._listener.start()
        atexit.register(self._at_exit)
        if HUB_VARIABLE in os.environ:
            self._send({"hub": _hub_of_launcher()})

    def join(self, exchange: Exchange, finalize: Callable[[], object] | None = None) -> None:
        """Find the others; collective, right after MPI_Init.

        exchange: gives every rank's value, by rank. finalize: ends MPI, called by `close` under the watcher's eyes.
        """
        self._finalize = finalize
        if HUB_VARIABLE not in os.environ:
            networks = exchange(addresses.network_id())
            hub = None
            if self.rank == 0:
                self._send({"serve": len(set(networks)) > 1})
                hub = self._answers.get(timeout=self.timeout)["hub"]
            self._send({"hub": exchange(hub)[0]})
        self._joined.wait()
        self.leave()

    def enter(self, text: str, group: tuple[int, ...] | None = None) -> None:
        """This rank begins to wait for the others: in `text`, such as "all_reduce of 4096 float32"; group: global ranks.

        Cheap: a few stores, once a text and group is known.
        """
        words = self._words.get((text, group))
        if words is None:
            words = self._learn(text, group)
        self._number += 1
        self._state[: wire.STATE.size] = wire.STATE.pack(self._number, wire.WAITING, words)
        self._current = words

    def leave(self) -> None:
        """The operation is done."""
        self._state[: wire.STATE.size] = wire.STATE.pack(self._number, wire.COMPUTING, self._current)

    @contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """While it is open, this rank is at work alone and the others wait longer for it."""
        before = self._current
        self._set(wire.BUSY, self._learn(what, None))
        self._send({"look": True})
        try:
            yield
        finally:
            self._set(wire.COMPUTING, before)

    def fail(self, message: str) -> NoReturn:
        """End the processes of all ranks, this one too: this one has failed, with this message."""
        self._send({"failed": message})
        # The listener ends the process; this is for the case that the watcher has been killed.
        threading.Event().wait(_LAST_WORDS_S)
        _end_process()

    def close(self) -> None:
        """Leave in good order: wait until all ranks do, end MPI, end the watch. A second call does nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        self._number += 1
        self._set(wire.LEFT, 0)
        self._send({"look": True})
        self._all_left.wait()
        if self._finalize is not None:
            self.enter("MPI_Finalize")
            self._finalize()
        self._send({"bye": True})
        assert self._watcher.stdin is not None
        self._watcher.stdin.close()
        self._watcher.wait()
        self._listener.join()
        atexit.unregister(self._at_exit)

    def _at_exit(self) -> None:
        if os.getpid() != self._pid:  # a fork of the rank is no rank
            return
        error = getattr(sys, "last_value", None)  # of the exception that ended the program
        if error is not None and not self._is_closed:
            self.fail(f"{type(error).__name__}: {error}")
        self.close()

    def _set(self, kind: int, words: int) -> None:
        self._current = words
        self._state[: wire.STATE.size] = wire.STATE.pack(self._number, kind, words)

    def _learn(self, text: str, group: tuple[int, ...] | None) -> int:
        words = self._words.setdefault((text, group), len(self._words) + 2)
        self._send({"words": words, "text": text, "group": group})
        return words

    def _start_watcher(self, state_fd: int) -> subprocess.Popen[bytes]:
        # A session of its own: what a launcher or a terminal sends to the rank's process group is not for it.
        try:
            watcher = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _COMMAND, str(_PACKAGE)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[state_fd],
                start_new_session=True,
                bufsize=0,
            )
        except OSError as error:
            raise RankError(f"rank {self.rank}: the process that watches it does not start: {error}") from error
        self._watcher = watcher
        options = {"rank": self.rank, "world_size": self.world_size, "timeout": self.timeout}
        self._send({**options, "state_fd": state_fd, "pid": os.getpid()})
        return watcher

    def _send(self, message: wire.Message) -> None:
        stdin = self._watcher.stdin
        assert stdin is not None
        # A watcher that is gone is the listener's business.
        with self._send_lock, suppress(OSError, ValueError):
            stdin.write(wire.encode(message))

    def _listen(self) -> None:
        stdout = self._watcher.stdout
        assert stdout is not None
        with stdout:
            for line in stdout:
                message = json.loads(line)
                if "all_joined" in message:
                    self._joined.set()
                elif "all_left" in message:
                    self._all_left.set()
                elif "end" in message:
                    _end_process()
                else:
                    self._answers.put(message)
        if not self._all_left.is_set():
            sys.stderr.write(f"trtllm-ext: rank {self.rank} of {self.world_size} ends: its watcher was killed\n")
            _end_process()


def _hub_of_launcher() -> Any:
    try:
        return json.loads(os.environ[HUB_VARIABLE])
    except ValueError:
        raise RankError(f"{HUB_VARIABLE} is not what `trtllm-ext run --nproc` sets; unset it") from None


def _end_process() -> NoReturn:
    """Without what might wait for another rank: no handlers at exit, no MPI_Finalize."""
    with suppress(Exception):
        sys.stdout.flush()
    with suppress(Exception):
        sys.stderr.flush()
    os._exit(1)
