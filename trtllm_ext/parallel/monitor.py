"""A rank's own side of the watch over ranks that are processes."""

from __future__ import annotations

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
from trtllm_ext.parallel.hooks import Hooks, Operation
from trtllm_ext.parallel.watch import addresses, wire

HUB_VARIABLE = "TRTLLM_EXT_HUB"

_PUT, _SIZE = wire.STATE.pack_into, wire.STATE.size
_START = 1  # the id of the words for MPI_Init
_PACKAGE = Path(__file__).parent
_COMMAND = "import sys; sys.path.append(sys.argv[1]); from watch.watcher import main; main()"
# A failed rank lives this long at most, for its watcher to tell the others.
_LAST_WORDS_S = 3.0

# Of an `Operation`: kind, number of values, their type, the group's global ranks.
Fields = tuple[str, int, Any, tuple[int, ...]]


class Monitor(Hooks):
    """Watches this rank and, through it, all others: a fault of one ends the processes of all with its name and cause.

    Make it before MPI starts, since a rank may be waited for in MPI_Init already; then `join`; at the end `close`.
    rank, world_size: this process's. timeout: seconds that a rank may wait for the others in one operation.
    Raises RankError when the watcher cannot be started.
    """

    def __init__(self, rank: int, world_size: int, timeout: float) -> None:
        super().__init__(rank)
        _open_standard_streams()
        self.world_size, self.timeout = world_size, timeout
        self._hub = _hub_of_launcher()
        self._number = 0
        self._operation: Fields | None = None
        self._operations: dict[Fields, int] = {}
        self._current = self._learnt = _START
        self._is_closed = False
        self._send_lock = threading.Lock()
        self._answers: queue.SimpleQueue[wire.Message] = queue.SimpleQueue()
        self._joined, self._all_left = threading.Event(), threading.Event()
        with tempfile.TemporaryFile() as shared:
            shared.truncate(_SIZE)
            self._state = mmap.mmap(shared.fileno(), _SIZE)
            self._set(wire.WAITING, _START)
            self._watcher = self._start_watcher(shared.fileno())
        self._listener = threading.Thread(target=self._listen, name="trtllm_ext monitor", daemon=True)
        self._listener.start()
        if self._hub is not None:
            self._send({"hub": self._hub})

    def join(self, exchange: Callable[[Any], Sequence[Any]]) -> None:
        """Find the others; collective, right after MPI_Init. exchange: gives every rank's value, by rank."""
        if self._hub is None:
            networks = exchange(addresses.network_id())
            hub = None
            if self.rank == 0:
                self._send({"serve": len(set(networks)) > 1})
                hub = self._answers.get()["hub"]
            self._send({"hub": exchange(hub)[0]})
        # The exchanges may have been told as operations; this goes on until all watchers are connected.
        self._set(wire.WAITING, _START)
        self._joined.wait()
        self._set(wire.COMPUTING, 0)

    @property
    def operation(self) -> Fields | None:
        """What this rank waits for the others in, or None; a communicator stores it before and after.

        Cheap: a lookup and a few stores, once an operation like it has been seen.
        """
        return self._operation

    @operation.setter
    def operation(self, operation: Fields | None) -> None:
        self._operation = operation
        if operation is None:
            _PUT(self._state, 0, self._number, wire.COMPUTING, self._current)
            return
        words = self._operations.get(operation)
        if words is None:
            words = self._operations[operation] = self._learn(str(Operation(*operation)), operation[3])
        self._number += 1
        self._current = words
        _PUT(self._state, 0, self._number, wire.WAITING, words)

    @contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """While it is open, this rank is at work alone and the others wait longer for it."""
        before = self._current
        self._set(wire.BUSY, self._learn(what))
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

    def close(self, finalize: Callable[[], object] | None = None) -> None:
        """Leave in good order: wait until all ranks do, then end the watch. A second call does nothing.

        finalize: ends MPI when all have left, still under the watcher's eyes.
        """
        if self._is_closed:
            return
        if not self._joined.is_set():
            self.fail("it ended before it had met the others")
        self._is_closed = True
        self._number += 1
        self._set(wire.LEFT, 0)
        self._send({"look": True})
        self._all_left.wait()
        if finalize is not None:
            self._number += 1
            self._set(wire.WAITING, self._learn("MPI_Finalize"))
            finalize()
        self._send({"bye": True})
        self._watcher.wait()
        self._listener.join()
        assert self._watcher.stdin is not None
        self._watcher.stdin.close()

    def _set(self, kind: int, words: int) -> None:
        self._current = words
        _PUT(self._state, 0, self._number, kind, words)

    def _learn(self, text: str, group: Sequence[int] | None = None) -> int:
        """The id of words, which the watcher learns."""
        self._learnt += 1
        self._send({"words": self._learnt, "text": text, "group": group})
        return self._learnt

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
            raise RankError(
                f"rank {self.rank}: the process that watches it does not start: {error}"
            ) from error
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
            text = f"trtllm-ext: rank {self.rank} of {self.world_size} ends: its watcher was killed\n"
            with suppress(OSError):
                os.write(2, text.encode())
            _end_process()


def _open_standard_streams() -> None:
    """Where this process has none: what is opened next would get their numbers, and the watcher write into it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
            os.set_inheritable(number, True)


def _hub_of_launcher() -> Any:
    """Where the launcher's hub is, if the launcher is ours."""
    if HUB_VARIABLE not in os.environ:
        return None
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
