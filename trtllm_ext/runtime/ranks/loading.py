"""Loading an engine of several ranks: each its own, and all together.

Every step that can fail on one rank ends in an exchange, so that the others hear of it instead of waiting.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from trtllm_ext.parallel import Communicator
from trtllm_ext.parallel.together import text_of, together
from trtllm_ext.runtime.engine_dir import EngineDir
from trtllm_ext.runtime.ranks import load_check
from trtllm_ext.runtime.ranks.collective_order import check_same_order, digest_of_order
from trtllm_ext.runtime.ranks.running import RankedRuns, check_place, communicator_of_engine
from trtllm_ext.runtime.ranks.self_test import SelfTest, read_self_test

if TYPE_CHECKING:
    from trtllm_ext.runtime.session import Session

# Session._load: buffer, load mode, directory, ranks.
Load = Callable[[Any, str, EngineDir | None, RankedRuns | None], "Session"]


def load_together(
    load: Load,
    path: str | os.PathLike[str],
    rank: int | None,
    load_mode: str,
    communicator: Communicator,
    self_test: bool,
) -> Session:
    """Load this rank's engine of a directory; collective over all ranks. Raises as `Session.from_engine_dir`."""
    directory, reports = _described(path, rank, communicator)
    load_check.compare_engines(reports, communicator.world_size)
    assert directory is not None  # else its report was a text, and an error
    envelope, place = directory.envelope, communicator.rank

    def open_engine() -> tuple[Session, SelfTest | None]:
        check_place(envelope, rank, communicator)
        directory.check_can_run()
        has_known = (
            self_test and envelope.engine_kind == "embedded"
        )  # TensorRT's ranks are not tried at build
        known = read_self_test(directory.path, envelope.build_id) if has_known else None
        with communicator.busy(f"loading rank{place}.engine"):
            ranks = RankedRuns(communicator, envelope.build_id)
            return load(directory.map_engine(), load_mode, directory, ranks), known

    (session, known), digests = together(communicator, open_engine, lambda opened: _digest_of(opened[0]))
    try:
        _try_collectives(communicator, session, digests)
        if known is not None:
            load_check.check_known_answer(session, communicator, known, directory)
    except BaseException:
        session.close()
        raise
    return session


def load_buffer(load: Load, buffer: Any, load_mode: str, communicator: Communicator | None) -> Session:
    """Load an engine from memory, with others collective over all ranks. Raises as `Session.from_serialized_engine`."""
    if communicator is None or communicator.world_size == 1:
        session = load(buffer, load_mode, None, None)
        try:
            communicator = communicator_of_engine(session.engine, communicator)
        except BaseException:
            session.close()
            raise
        if communicator is None:
            return session
        session.close()  # what loads for several ranks has other threads
    world = communicator
    return _open_together(world, lambda ranks: load(buffer, load_mode, None, ranks))


def open_engine(make: Callable[..., Session], engine: Any, communicator: Communicator | None) -> Session:
    """A session on an engine that is loaded; as `load_buffer`. make: `Session`."""
    world = communicator_of_engine(engine, communicator)
    return make(engine) if world is None else _open_together(world, lambda ranks: make(engine, ranks=ranks))


def _open_together(communicator: Communicator, make: Callable[[RankedRuns], Session]) -> Session:
    """What `make` gives on this rank, once its collectives are tried; collective over all ranks."""

    def open_own() -> Session:
        with communicator.busy(f"loading the engine of rank {communicator.rank}"):
            return make(RankedRuns(communicator, "an engine in memory"))

    session, digests = together(communicator, open_own, _digest_of)
    try:
        _try_collectives(communicator, session, digests)
    except BaseException:
        session.close()
        raise
    return session


def _described(
    path: str | os.PathLike[str], rank: int | None, communicator: Communicator
) -> tuple[EngineDir | None, list[Any]]:
    """This rank's directory, None when it cannot be read, and each rank's summary, or why it has none."""
    directory = None
    own: Any
    try:
        directory = EngineDir.read(os.fspath(path), communicator.rank)
        own = load_check.summary_of(directory.envelope)
    except Exception as error:
        own = text_of(error)
    return directory, communicator.exchange(own)


def _steps_of(session: Session) -> Sequence[Any]:
    """What the session's engine does together with other ranks, in order; TensorRT's does not tell."""
    return getattr(session.engine, "collective_steps", ())


def _digest_of(session: Session) -> dict[str, Any]:
    return digest_of_order(_steps_of(session))


def _try_collectives(communicator: Communicator, session: Session, digests: list[dict[str, Any]]) -> None:
    check_same_order(communicator, digests, _steps_of(session))
    load_check.exercise_collectives(communicator, getattr(session.engine, "collectives", ()))
