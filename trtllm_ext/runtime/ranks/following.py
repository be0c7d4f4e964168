"""A session of several ranks of which one hears what is to be run: rank 0 leads, and the others follow.

Ranks that wait for work longer than their communicator's timeout would be taken for stuck; so the leader gives a sign
several times within it, for as long as there is nothing to run.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np

from trtllm_ext.errors import EngineError, InputError, RankError
from trtllm_ext.parallel import Communicator
from trtllm_ext.parallel.together import together
from trtllm_ext.runtime.dtypes import NUMPY_DTYPES

if TYPE_CHECKING:
    from trtllm_ext.runtime.engine_dir import EngineDir
    from trtllm_ext.runtime.input_defaults import InputDefault
    from trtllm_ext.runtime.session import Session
    from trtllm_ext.runtime.tensor_info import TensorInfo
    from trtllm_ext.runtime.tensors import Shape

Result = TypeVar("Result")
LEADER = 0
# What a leader's record says, and what a follower's does.
_BEAT, _RUN, _STOP = 1, 2, 3
_FOLLOWS = 0
# So many signs within the communicator's timeout: a leader that is slow for a moment is none that is stuck.
_BEATS_A_TIMEOUT = 5
LED_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_DTYPES = {dtype.name: dtype for dtype in NUMPY_DTYPES.values()}


class _Orders:
    """One rank's side of the records that all ranks gather before each step: the leader's says what is to be done.

    record: [what, size of what is told beside it]; of a follower [_FOLLOWS, the signal that it was sent, or 0].
    """

    def __init__(self, communicator: Communicator) -> None:
        self.communicator = communicator
        self.everyone = tuple(range(communicator.world_size))
        self._gathered = np.zeros((communicator.world_size, 2), np.int64)

    def gather(self, what: int, size: int) -> Any:
        """int64 [ranks, 2]: each rank's record. Sleeps until the others have come."""
        with self._purpose():
            record = np.array([what, size], np.int64)
            self.communicator.all_gather(record, self._gathered, self.everyone)
        return self._gathered

    def broadcast(self, values: np.ndarray[Any, Any]) -> None:
        """The leader's values, to all."""
        with self._purpose():
            self.communicator.broadcast(values, self.everyone)

    @contextmanager
    def _purpose(self) -> Iterator[None]:
        self.communicator.purpose = "what the leading rank hands on"
        try:
            yield
        finally:
            self.communicator.purpose = ""


class LeadingSession:
    """Rank 0's end: `run` has all ranks run. A context manager, beside which every other rank is in `follow`.

    session: of an engine of several ranks, loaded with `communicator`.
    on_signal: called with the number of SIGTERM or SIGINT when a follower was sent it, from another thread: followers
    leave it to the leader to end, so that what it has begun is finished.
    Calls from several threads take turns. When the context ends, by an error or not, followers return.
    """

    def __init__(
        self, session: Session, communicator: Communicator, on_signal: Callable[[int], None] | None = None
    ) -> None:
        if communicator.rank != LEADER:
            raise RankError(f"rank {LEADER} leads; this is rank {communicator.rank}, which is to follow.")
        self._session = session
        self._orders = _Orders(communicator)
        self._on_signal = on_signal
        self._interval = communicator.timeout / _BEATS_A_TIMEOUT
        self._turn = threading.Lock()
        self._last = time.monotonic()
        self._failure: Exception | None = None
        self._signal = 0
        self._closing = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="trtllm_ext leading rank", daemon=True)

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """The session's."""
        return self._session.inputs

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """The session's."""
        return self._session.outputs

    @property
    def input_defaults(self) -> dict[str, InputDefault]:
        """The session's."""
        return self._session.input_defaults

    @property
    def engine_dir(self) -> EngineDir | None:
        """The session's."""
        return self._session.engine_dir

    @property
    def engine(self) -> Any:
        """The session's."""
        return self._session.engine

    def profiles(self, name: str) -> list[tuple[Shape, Shape, Shape]]:
        """The session's."""
        return self._session.profiles(name)

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """`Session.run` on all ranks. inputs: C-contiguous numpy arrays, handed on to the others as they are.

        Raises what `Session.run` raises; InputError for what is no such array, of which the others do not hear;
        EngineError when the context has ended, and RankError when a rank has failed before.
        """
        arrays = {name: _checked(name, value) for name, value in inputs.items()}
        told = json.dumps([[name, value.dtype.name, value.shape] for name, value in arrays.items()]).encode()
        with self._turn:
            if self._failure is not None:
                raise RankError(f"the ranks have failed: {self._failure}") from self._failure
            if self._closing.is_set() or not self._heart.is_alive():
                raise EngineError("this session leads no ranks now; use it inside its context.")
            self._order(_RUN, len(told))
            self._orders.broadcast(np.frombuffer(told, np.uint8))
            for value in arrays.values():
                self._orders.broadcast(value)
            outputs = self._session.run(arrays)
            self._last = time.monotonic()
            return outputs

    def __enter__(self) -> Self:
        self._heart.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Of an interrupt a run may have been cut off: other ranks are in it, and end with this process.
        if kind is None:
            self.close()
        elif issubclass(kind, Exception):
            self._leave(error)
        self._closing.set()
        self._heart.join(self._orders.communicator.timeout)

    def close(self) -> None:
        """Let the followers return, once what runs has run. A second call does nothing."""
        with self._turn:
            self._stop()

    def _leave(self, error: BaseException | None) -> None:
        """As `close`, but a run that does not end is not waited for: all ranks fail with `error` then."""
        # Followers in that run wait for the whole timeout: they are to hear the reason before.
        if not self._turn.acquire(timeout=self._orders.communicator.timeout / 2):
            self._orders.communicator.fail(f"while it ran what it had begun: {error}")
            return
        try:
            self._stop()
        finally:
            self._turn.release()

    def _stop(self) -> None:
        if self._failure is None and not self._closing.is_set():
            self._closing.set()
            self._order(_STOP)

    def _order(self, what: int, size: int = 0) -> None:
        """Tell all ranks what comes, and hear whether one of them was sent a signal."""
        try:
            records = self._orders.gather(what, size)
        except Exception as problem:
            self._failure = problem
            raise
        self._last = time.monotonic()
        self._signal = int(records[1:, 1].max())

    def _beat(self) -> None:
        told = 0
        while not self._closing.wait(self._interval):
            with self._turn:
                is_quiet = time.monotonic() - self._last > self._interval / 2
                if is_quiet and not self._closing.is_set():
                    try:
                        self._order(_BEAT)
                    except RankError:
                        return  # the next run says it
                number = self._signal
            if number != told and self._on_signal is not None:
                told = number
                self._on_signal(number)


def lead(
    session: Session,
    communicator: Communicator,
    work: Callable[[LeadingSession], Result],
    on_signal: Callable[[int], None] | None = None,
) -> Result | None:
    """Call `work(leading session)` on rank 0 while the others follow; its result there, None on the others.

    Collective over all ranks. on_signal: as for `LeadingSession`.
    Raises RankError on all ranks when the work raises an error on rank 0, and when a rank has failed.
    """

    def act() -> Result | None:
        if communicator.rank != LEADER:
            follow(session, communicator)
            return None
        with LeadingSession(session, communicator, on_signal) as leading:
            return work(leading)

    return together(communicator, act)[0]


def follow(session: Session, communicator: Communicator) -> None:
    """Run what rank 0's `LeadingSession` runs, until its context ends.

    SIGTERM and SIGINT are left to the leader meanwhile, if this is the main thread.
    Raises RankError when a rank has failed. What all ranks refused to run is no error here.
    """
    orders = _Orders(communicator)
    with _noting_signals() as noted:
        while True:
            what, size = (int(value) for value in orders.gather(_FOLLOWS, noted[-1])[LEADER])
            if what == _STOP:
                return
            if what == _RUN:
                _run(session, _received(orders, size))


def _run(session: Session, inputs: dict[str, Any]) -> None:
    try:
        session.run(inputs)
    except Exception:
        # Told to whoever asked, by the leader, which has met the same. A rank that failed alone has ended the world
        # of ranks, so that the next record is not gathered.
        return


def _received(orders: _Orders, size: int) -> dict[str, Any]:
    told = np.empty(size, np.uint8)
    orders.broadcast(told)
    arrays = {}
    for name, dtype, shape in json.loads(told.tobytes()):
        arrays[name] = np.empty(shape, _DTYPES[dtype])
        orders.broadcast(arrays[name])
    return arrays


def _checked(name: str, value: Any) -> np.ndarray[Any, Any]:
    if not isinstance(value, np.ndarray) or value.dtype.name not in _DTYPES:
        what = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
        raise InputError(
            f"input {name!r} is {what}; what all ranks run takes numpy arrays of the engine's types."
        )
    return value if value.flags.c_contiguous else np.ascontiguousarray(value)


@contextmanager
def _noting_signals() -> Iterator[list[int]]:
    """Yields a list whose last entry is the last of `LED_SIGNALS` that came, or 0."""
    noted = [0]

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)

    if threading.current_thread() is not threading.main_thread():  # signals belong to that one
        yield noted
        return
    before = {number: signal.signal(number, note) for number in LED_SIGNALS}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
