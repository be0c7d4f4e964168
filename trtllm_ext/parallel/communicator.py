"""What ranks do together: the one interface behind which MPI and the in-process world stand."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, Any]
ReduceOp = Literal["sum", "prod", "max", "min"]


class Communicator(ABC):
    """One rank's end of a world of ranks.

    Every operation is collective over `group`, a sequence of global ranks that holds this one: all of them call it, in
    the same order, with arrays of the same sizes and types. Arrays are C-contiguous and stay where they are; their
    shapes do not matter. Reductions go through the ranks in the order of `group`, first to last, in the arrays' own
    type, so that every rank gets the same bits, and another implementation the same too.

    One thread at a time: operations of two threads could meet other ranks' in another order, so those that overlap are
    refused.
    rank, world_size: this end's place in the world. timeout: seconds that an operation may wait for other ranks.
    is_simulated: the ranks are threads of one process.
    purpose: what the next operations are for, in words that whoever started the ranks knows ("the start of ..."); said
    of an operation that does not end. Whoever sets it makes it empty again.
    Raises RankError naming the rank and the cause when an operation cannot be finished. An implementation whose ranks
    are processes that nothing can interrupt ends the process with that message instead, on every rank.
    """

    rank: int
    world_size: int
    timeout: float
    is_simulated: bool
    purpose: str = ""

    def _named(self, operation: str) -> str:
        """An operation as it is told of, with its purpose."""
        return f"{self.purpose}: {operation}" if self.purpose else operation

    @abstractmethod
    def all_reduce(self, values: Array, group: Sequence[int], op: ReduceOp = "sum") -> None:
        """Combine `values` over the group, element by element, in place."""

    @abstractmethod
    def all_gather(self, values: Array, gathered: Array, group: Sequence[int]) -> None:
        """Put the group's `values`, in the order of the group, one after the other into `gathered`."""

    @abstractmethod
    def reduce_scatter(self, values: Array, part: Array, group: Sequence[int], op: ReduceOp = "sum") -> None:
        """Combine `values` over the group, of which this rank gets its own of as many equal parts, into `part`."""

    @abstractmethod
    def broadcast(self, values: Array, group: Sequence[int]) -> None:
        """Give the `values` of the group's first rank to the others of it, into theirs."""

    @abstractmethod
    def exchange(self, value: Any) -> list[Any]:
        """Every rank's value by rank, of all ranks of the world. value: of JSON's types. Not for a hot path."""

    @abstractmethod
    def prepare(self, group: Sequence[int]) -> None:
        """Make ready for operations over a group; collective over it. Others may do it at the first operation."""

    @abstractmethod
    def busy(self, what: str) -> AbstractContextManager[None]:
        """While it is open this rank is at work alone ("loading rank1.engine"): others wait 60 times longer for it."""

    @abstractmethod
    def fail(self, message: str) -> None:
        """Tell all ranks that this one cannot go on, and why; their operations end with RankError, or they do.

        Returns where the ranks are threads, so that the caller can raise.
        """

    @abstractmethod
    def close(self) -> None:
        """Leave the world in good order."""

    def __enter__(self) -> Communicator:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self.fail(f"{type(error).__name__}: {error}")
        self.close()


def own_place(communicator: Communicator, group: Sequence[int]) -> int:
    """This rank's place in a group. Raises ValueError if it is not in it."""
    return list(group).index(communicator.rank)


def parts_of(values: Array, count: int) -> list[Array]:
    """`values`, flat, as `count` equal parts. Raises ValueError if they do not split."""
    flat = values.reshape(-1)
    if flat.size % count:
        raise ValueError(f"{flat.size} values do not split into {count} equal parts")
    share = flat.size // count
    return [flat[place * share : (place + 1) * share] for place in range(count)]
