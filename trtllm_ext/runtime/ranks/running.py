"""Sessions of several ranks: whose engine a process loads, and what the ranks tell each other before each run."""

from __future__ import annotations

import ctypes
import hashlib
import os
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import numpy as np

from trtllm_ext import backend, parallel
from trtllm_ext.errors import EngineError, InputError, RankError
from trtllm_ext.parallel import Communicator
from trtllm_ext.parallel.ordered_sum import ranks_text
from trtllm_ext.parallel.together import by_rank, text_of
from trtllm_ext.runtime.bindings import Bindings
from trtllm_ext.runtime.engine_dir import EngineDir
from trtllm_ext.runtime.envelope import Envelope
from trtllm_ext.runtime.tensors import Port, address_of, is_on_host

_READY, _REFUSED, _READY_UNCHECKED = 1, 2, 3
_SUM_BITS = 32  # of a record's first number; its state is above them
_DIGEST_BYTES = 16
_START_OF_RUN = "the start of Session.run (do all ranks make the same calls?)"


def communicator_for(
    path: str | os.PathLike[str], rank: int | None, communicator: Communicator | None
) -> Communicator | None:
    """The communicator that rank `rank`'s engine of a directory is to be loaded with; None for an engine of one rank.

    That is `communicator`, else the world that a launcher started this process in.
    Raises EngineError when the engine has several ranks and this process has no others.
    """
    if communicator is not None and communicator.world_size > 1:
        return communicator
    try:
        size = EngineDir.read(os.fspath(path), 0).envelope.world_size
    except EngineError:
        # Where each host has its own rank's files alone, or this one lacks them: the other ranks are to be told.
        world = communicator or parallel.world()
        if world is None or world.world_size == 1:
            raise
        return world
    if size == 1:
        return None
    world = _world_of(communicator, os.fspath(path), size)
    if world.world_size != size:
        raise EngineError(wrong_world(size, world.world_size))
    return world


def communicator_of_engine(engine: Any, communicator: Communicator | None) -> Communicator | None:
    """As `communicator_for`, for an engine in memory: it has as many ranks as its collectives name, or more."""
    if communicator is not None and communicator.world_size > 1:
        return communicator
    named = [rank for each in getattr(engine, "collectives", ()) for rank in each.group]
    size = 1 + max(named, default=0)
    if size == 1:
        return None
    world = _world_of(communicator, "the engine", size)
    if world.world_size < size:
        raise EngineError(wrong_world(size, world.world_size))
    return world


def _world_of(communicator: Communicator | None, what: str, size: int) -> Communicator:
    world = communicator or parallel.world()
    if world is None:
        raise EngineError(
            f"{what} was built for {size} ranks, which run as {size} processes, and this one was started alone. "
            f"{way_out(size)}"
        )
    return world


def wrong_world(size: int, started: int) -> str:
    """The sentence for an engine of `size` ranks in a world of another number."""
    return f"the engine was built for {_count(size)}, this world has {started}; {_start(size)}"


def way_out(size: int) -> str:
    """How to start an engine of `size` ranks."""
    text = _start(size)
    return text[0].upper() + text[1:]


def _start(size: int) -> str:
    if size == 1:
        return "start it without a launcher, and without --nproc."
    return (
        f"start it with mpirun -n {size} ..., give `trtllm-ext run`, `embed` and `serve` --nproc {size}, or try it "
        f"in one process with trtllm_ext.runtime.Rehearsal."
    )


def _count(size: int) -> str:
    return "1 rank" if size == 1 else f"{size} ranks"


def check_place(envelope: Envelope, rank: int | None, communicator: Communicator) -> None:
    """Raise EngineError unless `rank` is the communicator's, and this backend runs collectives."""
    if rank is not None and rank != communicator.rank:
        raise EngineError(
            f"rank={rank} was asked for, but this process is rank {communicator.rank} of {communicator.world_size}. "
            f"Leave rank out: each process loads its own."
        )
    if envelope.engine_kind == "tensorrt" and not reduces_itself():
        raise EngineError(
            f"an engine of {envelope.world_size} ranks needs an NCCL communicator on TensorRT, and this version makes "
            f"none. Build and run it where TensorRT-LLM is installed, whose plugins bring their own, or with "
            f"{backend.ENVIRONMENT_VARIABLE}=embedded."
        )


def reduces_itself() -> bool:
    """Whether the engine's collectives are TensorRT-LLM's plugins, which find the other ranks on their own."""
    return backend.choice().graph == "tensorrt_llm"


class RankedRuns:
    """What a session of several ranks adds to a run: before it, all ranks tell each other that they are ready.

    identity: the same on all ranks of one engine ("the build id").
    A record of 32 bytes is gathered: state with a checksum of the inputs' values, number of the run, digest of what is
    run. Only when the records differ are words exchanged, so that each rank raises an error which names the ranks; the
    session stays usable.
    """

    def __init__(self, communicator: Communicator, identity: str) -> None:
        self.communicator = communicator
        self._identity = identity.encode()
        self._everyone = tuple(range(communicator.world_size))
        self._record = np.zeros(2 + _DIGEST_BYTES // 8, np.int64)
        self._gathered = np.zeros((communicator.world_size, self._record.size), np.int64)
        self._shapes: Any = None

    def bind(
        self, bindings: Bindings, inputs: Any, check: bool, bind: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """`bind()`, if it works on all ranks and they all have the same inputs.

        check: compare the inputs' values too, not their shapes alone; those on a device are not.
        Raises what `bind` raised here; RankError naming the rank when it failed on another one; InputError on every
        rank when inputs differ.
        """
        record = self._record
        record[1] += 1
        try:
            results = bind()
        except Exception as problem:
            record[0] = _REFUSED << _SUM_BITS
            self._gather()
            self._explain(bindings, inputs, problem)
        record[0] = (
            _READY << _SUM_BITS | _checksum(inputs.values()) if check else _READY_UNCHECKED << _SUM_BITS
        )
        self._note_shapes(bindings, inputs)
        self._gather()
        if self._gathered.tobytes() != record.tobytes() * len(self._gathered):
            self._explain(bindings, inputs, None)
        return results

    def prepare(self, runtime: Any) -> None:
        """Before an engine is deserialized: whose threads it will run on."""
        if hasattr(runtime, "thread_pool"):
            runtime.thread_pool = "none" if self.communicator.is_simulated else "process"

    def connect(self, context: Any, bindings: Bindings) -> None:
        """Give a context what its collectives run over. Raises EngineError if it takes none."""
        if reduces_itself() or not hasattr(context, "set_communicator"):
            return
        mark = bindings.mark()
        if not context.set_communicator(self.communicator):
            raise EngineError(f"the engine does not fit these ranks{bindings.said(mark)}.")

    def failure(self, context: Any, text: str) -> EngineError | RankError:
        """The error for a run that failed here: told to the other ranks, unless they were its cause."""
        problem = getattr(context, "rank_error", None)
        if isinstance(problem, RankError):
            return problem
        self.communicator.fail(text)
        return EngineError(text)

    def _gather(self) -> None:
        self.communicator.purpose = _START_OF_RUN
        try:
            self.communicator.all_gather(self._record, self._gathered, self._everyone)
        finally:
            self.communicator.purpose = ""

    def _note_shapes(self, bindings: Bindings, inputs: Mapping[str, Any]) -> None:
        shapes = [
            (port.name, port.last_shape, _value_of_shape(port, inputs)) for port in bindings.inputs.values()
        ]
        if shapes == self._shapes:
            return
        self._shapes = shapes
        types = [str(port.dtype) for port in bindings.inputs.values()]
        digest = hashlib.blake2b(self._identity, digest_size=_DIGEST_BYTES)
        digest.update(repr((shapes, types)).encode())
        self._record[2:] = np.frombuffer(digest.digest(), np.int64)

    def _explain(self, bindings: Bindings, inputs: Any, problem: Exception | None) -> NoReturn:
        """The records differ: raise what is the matter. Collective over all ranks."""
        self._shapes = None
        ports = bindings.inputs if problem is None else {}
        own: dict[str, Any] = {
            "run": int(self._record[1]),
            "engine": self._identity.decode(),
            "problem": None if problem is None else text_of(problem),
            "check": f"check={self._record[0] >> _SUM_BITS != _READY_UNCHECKED}",
            "shapes": {name: _described(port, inputs) for name, port in ports.items()},
            "values": {name: _checksum([inputs[name]]) for name in ports},
        }
        told = self.communicator.exchange(own)
        if problem is not None:
            raise problem
        if any(each["problem"] for each in told):
            raise RankError(
                f"nothing was run, since not all ranks could take their inputs. "
                f"{by_rank([each['problem'] for each in told])}"
            )
        for key, what in (("engine", "runs the engine"), ("run", "is at run")):
            if text := _differing(told, key, what):
                raise RankError(f"{text} All ranks must run the same sessions in the same order.")
        for name in bindings.inputs:
            shapes = [each["shapes"].get(name) for each in told]
            if len(set(shapes)) > 1:
                raise InputError(
                    f"input {name!r} differs between ranks: {_list_by_rank(shapes)}. All ranks take the same inputs."
                )
        if text := _differing(told, "check", "runs with"):
            raise InputError(f"{text} Only where all ranks check are the inputs' values compared.")
        for name in bindings.inputs:
            sums = [each["values"][name] for each in told]
            if others := [rank for rank, each in enumerate(sums) if each != sums[0]]:
                raise InputError(
                    f"input {name!r} has other values on {ranks_text(others)} than on rank 0. All ranks take the same "
                    f"inputs: read them from one file, seed the generator, or broadcast them."
                )
        raise RankError("the ranks' inputs differ in their types. All ranks must load engines of one build.")


def _checksum(values: Iterable[Any]) -> int:
    """CRC-32 of the bytes of those contiguous arrays and tensors that are in the host's memory, one after the other.

    Through their addresses, since types that are not numpy's own have no buffer that others could read.
    """
    checksum = 0
    for value in values:
        if value.nbytes and is_on_host(value):
            memory = (ctypes.c_char * value.nbytes).from_address(address_of(value))
            checksum = zlib.crc32(memory, checksum)
    return checksum


def _differing(told: list[dict[str, Any]], key: str, what: str) -> str | None:
    values = [each[key] for each in told]
    if len(set(values)) == 1:
        return None
    other = next(rank for rank, value in enumerate(values) if value != values[0])
    return f"rank {other} {what} {values[other]}, rank 0 {what} {values[0]}."


def _list_by_rank(texts: list[Any]) -> str:
    ranks: dict[Any, list[int]] = {}
    for rank, text in enumerate(texts):
        ranks.setdefault(text, []).append(rank)
    return "; ".join(f"{text} on {ranks_text(group)}" for text, group in ranks.items())


def _described(port: Port, inputs: Mapping[str, Any]) -> str:
    text = f"shape {port.last_shape}"
    return f"{text}, value {np.asarray(inputs[port.name]).tolist()}" if port.is_shape else text


def _value_of_shape(port: Port, inputs: Mapping[str, Any]) -> bytes:
    """The values of an input that shapes are worked out from; they must agree as the shapes do."""
    return np.asarray(inputs[port.name]).tobytes() if port.is_shape else b""
