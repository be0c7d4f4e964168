"""The part of IExecutionContext that lets it run together with contexts of other ranks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from trtllm_ext.embedded.plan import CollectiveInfo, CollectiveStep, SingleStep
from trtllm_ext.embedded.plan.collectives import distinct_collectives
from trtllm_ext.embedded.running.observers import Observers
from trtllm_ext.embedded.running.stepped import SteppedExecution
from trtllm_ext.errors import RankError
from trtllm_ext.parallel import Communicator

if TYPE_CHECKING:
    from trtllm_ext.embedded.running.execution import Execution


class Ranks(Observers):
    """Communicator of a context, and what went wrong between the ranks."""

    __slots__ = ("_collectives", "_communicator", "_execution", "_rank_error")
    _collectives: tuple[CollectiveInfo, ...]
    _communicator: Communicator | None
    _execution: Execution | SteppedExecution | None
    _rank_error: RankError | None

    def _be_alone(self, steps: Iterable[SingleStep]) -> None:
        self._collectives = distinct_collectives(step for step in steps if isinstance(step, CollectiveStep))
        self._communicator = None
        self._rank_error = None

    @property
    def rank_error(self) -> RankError | None:
        """The error of the communicator that ended the last run; None if it ended otherwise. Ours alone."""
        return self._rank_error

    def set_communicator(self, communicator: Communicator) -> bool:
        """Run collectives over the ranks of `communicator`, a `trtllm_ext.parallel.Communicator`, from now on.

        Other objects raise TypeError. False, with an error in the log, if the engine has a collective over ranks that
        it lacks, or over a group in which this rank is not. Nothing is exchanged with the other ranks yet.
        """
        if not isinstance(communicator, Communicator):
            raise TypeError(
                f"a communicator must be a trtllm_ext.parallel.Communicator, not {communicator!r}"
            )
        for one in self._collectives:
            reason = _misfit(one.group, communicator)
            if reason is not None:
                self._report(f"set_communicator: {reason}")
                return False
        self._communicator = communicator
        self._hand_communicator(self._execution)
        return True

    def _hand_communicator(self, execution: Execution | SteppedExecution | None) -> None:
        if self._communicator is not None and isinstance(execution, SteppedExecution):
            execution.set_communicator(self._communicator)

    def _lacking(self) -> str | None:
        """Why the ranks cannot run together yet, or None."""
        if not self._collectives or self._communicator is not None:
            return None
        ranks = sorted({rank for one in self._collectives for rank in one.group})
        return (
            f"the engine has collectives over the ranks {', '.join(map(str, ranks))}, but no communicator; give it one "
            "with set_communicator(), such as trtllm_ext.parallel.world() in a process that mpirun started."
        )


def _misfit(group: tuple[int, ...], communicator: Communicator) -> str | None:
    size, rank = communicator.world_size, communicator.rank
    if max(group) >= size:
        return (
            f"the engine has a collective over the ranks {list(group)}, but the communicator's world has only {size}; "
            f"start {max(group) + 1} or more ranks, or build the engine for fewer."
        )
    if rank not in group:
        return (
            f"the engine has a collective over the ranks {list(group)}, in which this one, rank {rank}, is not; load "
            "the engine that was built for this rank."
        )
    return None
