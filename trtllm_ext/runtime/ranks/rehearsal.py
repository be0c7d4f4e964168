"""Engines of several ranks in one process: a thread and a session each, and a communicator in memory.

What is right here is right over MPI: collectives add in the same order, so that the bits are the same.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, TypeVar

import numpy as np

from trtllm_ext.errors import EngineError, InputError, RankError
from trtllm_ext.parallel import Communicator, LocalWorld
from trtllm_ext.parallel.ordered_sum import ranks_text
from trtllm_ext.runtime.engine_dir import EngineDir
from trtllm_ext.runtime.ranks.agreement import bits_of
from trtllm_ext.runtime.ranks.running import wrong_world
from trtllm_ext.runtime.session import Session

Result = TypeVar("Result")
Inputs = Mapping[str, Any]
_WAITING_S = 1.0
_TAKEN = (
    "a rehearsal takes the path of an engine directory, a list with one builder.Engine for each rank, or a list with "
    "one serialized engine for each rank, in order"
)


class Rehearsal:
    """All ranks of an engine directory, or of a list of engines, ready to run in this process.

    engines: the directory's path; or one `builder.Engine` a rank, or one serialized engine a rank, in the order of
    ranks: bytes, or what `Builder.build_engine` returned.
    load_mode: as for `Session`; mapped loads at once. timeout: seconds that a rank waits for another.
    self_test: try the known answer of the directory; engines in memory have none.
    waiting: called each second, by whoever waits for the ranks to load or run; what it raises ends the rehearsal.
    sessions: one a rank. Each has one thread, so N ranks take as long as N runs one after the other, or less.
    Usable as a context manager; `close` gives memory back.
    Raises what `Session.from_engine_dir` raises.
    """

    def __init__(
        self,
        engines: str | os.PathLike[str] | Sequence[Any],
        load_mode: str = "mapped",
        timeout: float = 10.0,
        *,
        self_test: bool = True,
        waiting: Callable[[], None] | None = None,
    ) -> None:
        self._waiting = waiting
        if isinstance(engines, str | os.PathLike):
            self.world_size, open_rank = _from_directory(engines, load_mode, self_test)
        else:
            self.world_size, open_rank = _from_memory(engines, load_mode)
        self._world = LocalWorld(self.world_size, timeout)
        self.sessions: list[Session] = []
        self.sessions = self._on_all(open_rank)

    def run(
        self, inputs: Inputs | Sequence[Inputs], *, same_bits: bool = False, check: bool = True
    ) -> list[dict[str, Any]]:
        """Run all ranks once; each rank's outputs by name, by rank.

        inputs: as for `Session.run`, the same for all ranks, or a list with each rank's own.
        same_bits: raise RankError when ranks do not all give the same bits.
        Raises what `Session.run` raises on the rank that failed. After an InputError the rehearsal goes on.
        """
        if not self.sessions:
            raise EngineError("this rehearsal is closed.")
        given = [inputs] * self.world_size if isinstance(inputs, Mapping) else list(inputs)
        if len(given) != self.world_size:
            raise InputError(
                f"inputs of {len(given)} ranks were given for {self.world_size}; give one dict, or all."
            )
        outputs = self._on_all(lambda end: self.sessions[end.rank].run(given[end.rank], check=check))
        if same_bits:
            check_same_bits(outputs)
        return outputs

    def close(self) -> None:
        """Close all sessions."""
        for session in self.sessions:
            session.close()
        self.sessions = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _on_all(self, function: Callable[[Communicator], Result]) -> list[Result]:
        """Call it for each rank, a thread each. Raises the error of the rank that failed, not the others' echo."""
        results: dict[int, Result] = {}
        errors: dict[int, BaseException] = {}

        def run(end: Communicator) -> None:
            try:
                results[end.rank] = function(end)
            except BaseException as error:
                errors[end.rank] = error
                if not isinstance(error, RankError | InputError | EngineError):
                    end.fail(f"{type(error).__name__}: {error}")  # the others do not know of it

        threads = [
            threading.Thread(target=run, args=(end,), name=f"rank {end.rank}", daemon=True)
            for end in self._world.communicators
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                self._wait_for(thread)
        except BaseException as error:
            self._world.communicators[0].fail(f"{type(error).__name__} of whoever waits for the ranks")
            raise
        if errors:
            raise min(errors.values(), key=lambda error: isinstance(error, RankError))
        return [results[rank] for rank in range(self.world_size)]

    def _wait_for(self, thread: threading.Thread) -> None:
        if self._waiting is None:
            thread.join()
            return
        thread.join(_WAITING_S)
        while thread.is_alive():
            self._waiting()
            thread.join(_WAITING_S)


def check_same_bits(outputs: Sequence[Mapping[str, Any]]) -> None:
    """Raise RankError unless all ranks' outputs are equal bit for bit."""
    first = bits_of(outputs[0])
    for name in first:
        others = [
            rank for rank, each in enumerate(outputs) if not np.array_equal(bits_of(each)[name], first[name])
        ]
        if others:
            raise RankError(f"output {name!r} of {ranks_text(others)} has other bits than that of rank 0.")


Open = Callable[[Communicator], Session]


def _from_directory(path: Any, load_mode: str, self_test: bool) -> tuple[int, Open]:
    size = EngineDir.read(os.fspath(path), 0).envelope.world_size

    def open_rank(end: Communicator) -> Session:
        return Session.from_engine_dir(path, None, load_mode, end, self_test)

    return size, open_rank


def _from_memory(engines: Sequence[Any], load_mode: str) -> tuple[int, Open]:
    buffers = _buffers_of(engines)
    # All ranks' are the same; a buffer alone does not tell.
    defaults = getattr(getattr(engines[0], "config", None), "input_defaults", None)

    def open_rank(end: Communicator) -> Session:
        return Session.from_serialized_engine(buffers[end.rank], load_mode, end, input_defaults=defaults)

    return len(buffers), open_rank


def _buffers_of(engines: Any) -> list[Any]:
    """Serialized engines in the order of ranks. Raises EngineError for anything that is not one of each."""
    if not isinstance(engines, list | tuple) or not engines:
        raise EngineError(f"engines is {_kind_of(engines)}; {_TAKEN}.")
    if all(hasattr(each, "rank") and hasattr(each, "config") for each in engines):
        return _built_buffers(engines)
    for place, each in enumerate(engines):
        try:
            memoryview(each).release()
        except TypeError as problem:
            raise EngineError(f"engines[{place}] is {_kind_of(each)}; {_TAKEN}.") from problem
    return list(engines)


def _kind_of(value: Any) -> str:
    return "empty" if isinstance(value, list | tuple) and not value else f"of type {type(value).__name__}"


def _built_buffers(engines: Sequence[Any]) -> list[Any]:
    engines = sorted(engines, key=lambda engine: int(engine.rank))
    size = len(engines)
    for place, engine in enumerate(engines):
        if engine.config.world_size != size:
            raise EngineError(wrong_world(engine.config.world_size, size))
        if engine.rank != place:
            raise EngineError(
                f"the engines given are of ranks {[each.rank for each in engines]}; give one of each."
            )
        if engine.engine is None:
            raise EngineError(
                f"the engine of rank {place} is the result of a dry run: there is nothing to load."
            )
    return [each.engine for each in engines]
