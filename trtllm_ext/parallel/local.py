"""A world of ranks inside one process: one thread each, arrays handed over in memory, the same bits as over MPI."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from trtllm_ext.errors import RankError
from trtllm_ext.parallel.communicator import Array, Communicator, ReduceOp
from trtllm_ext.parallel.meetings import Meetings
from trtllm_ext.parallel.ordered_sum import (
    check_array,
    check_group,
    check_reduction,
    ranks_text,
    reduce_in_order,
    share_of,
    to_json,
)


class LocalWorld(Meetings):
    """`size` ranks, each to be used by a thread of its own through `communicators[rank]`.

    timeout: seconds that an operation waits for its other ranks.
    A world that has failed once stays failed: every operation raises RankError with the first cause.
    """

    def __init__(self, size: int, timeout: float = 10.0) -> None:
        super().__init__(size, timeout)
        self.communicators = [LocalCommunicator(self, rank) for rank in range(size)]


class LocalCommunicator(Communicator):
    """One rank of a LocalWorld."""

    is_simulated = True

    def __init__(self, world: LocalWorld, rank: int) -> None:
        self.rank, self.world_size, self.timeout = rank, world.size, world.timeout
        self.world = world

    def all_reduce(self, values: Array, group: Sequence[int], op: ReduceOp = "sum") -> None:
        with self._checked():
            ranks = check_group("all_reduce", group, self.rank, self.world_size)
            check_array("all_reduce", values)
            check_reduction("all_reduce", values, op)

        def act(given: list[Array]) -> None:
            total = given[0].copy()
            reduce_in_order([total, *given[1:]], total, op)
            for each in given:
                each[...] = total

        text = f"all_reduce ({op}) of {values.size} {values.dtype} values over {ranks_text(ranks)}"
        self.world.meet(self.rank, ranks, self._named(text), values.reshape(-1), act)

    def all_gather(self, values: Array, gathered: Array, group: Sequence[int]) -> None:
        with self._checked():
            ranks = check_group("all_gather", group, self.rank, self.world_size)
            check_array("all_gather", values)
            check_array("all_gather", gathered, values.size * len(ranks), values.dtype)
        size = values.size

        def act(given: list[tuple[Array, Array]]) -> None:
            for place, (part, _) in enumerate(given):
                for _, whole in given:
                    whole[place * size : (place + 1) * size] = part

        text = f"all_gather of {size} {values.dtype} values over {ranks_text(ranks)}"
        self.world.meet(self.rank, ranks, self._named(text), (values.reshape(-1), gathered.reshape(-1)), act)

    def reduce_scatter(self, values: Array, part: Array, group: Sequence[int], op: ReduceOp = "sum") -> None:
        with self._checked():
            ranks = check_group("reduce_scatter", group, self.rank, self.world_size)
            share = share_of("reduce_scatter", values.size, len(ranks))
            check_array("reduce_scatter", values)
            check_array("reduce_scatter", part, share, values.dtype)
            check_reduction("reduce_scatter", values, op)

        def act(given: list[tuple[Array, Array]]) -> None:
            # A part may be a view of its rank's values, of which the others' parts are still to be made.
            for place in range(len(given)):
                own = slice(place * share, (place + 1) * share)
                sums.append(given[0][0][own].copy())
                reduce_in_order([sums[-1], *(values[own] for values, _ in given[1:])], sums[-1], op)
            for (_, result), total in zip(given, sums, strict=True):
                result[...] = total

        sums: list[Array] = []
        text = f"reduce_scatter ({op}) of {values.size} {values.dtype} values over {ranks_text(ranks)}"
        self.world.meet(self.rank, ranks, self._named(text), (values.reshape(-1), part.reshape(-1)), act)

    def broadcast(self, values: Array, group: Sequence[int]) -> None:
        with self._checked():
            ranks = check_group("broadcast", group, self.rank, self.world_size)
            check_array("broadcast", values)

        def act(given: list[Array]) -> None:
            for each in given[1:]:
                each[...] = given[0]

        text = f"broadcast of {values.size} {values.dtype} values over {ranks_text(ranks)}"
        self.world.meet(self.rank, ranks, self._named(text), values.reshape(-1), act)

    def exchange(self, value: Any) -> list[Any]:
        own: list[str] = []

        def act(given: list[tuple[str, list[str]]]) -> None:
            for _, received in given:
                received.extend(text for text, _ in given)

        with self._checked():
            text = to_json(value)
        everyone = tuple(range(self.world_size))
        self.world.meet(self.rank, everyone, self._named("exchange over all ranks"), (text, own), act)
        return [json.loads(each) for each in own]

    def prepare(self, group: Sequence[int]) -> None:
        with self._checked():
            ranks = check_group("prepare", group, self.rank, self.world_size)
        self.world.meet(self.rank, ranks, f"prepare of {ranks_text(ranks)}", None, lambda given: None)

    @contextmanager
    def busy(self, what: str) -> Iterator[None]:
        with self.world.busy(self.rank, what):
            yield

    def fail(self, message: str) -> None:
        self.world.fail(self.rank, message)

    def close(self) -> None:
        self.world.leave(self.rank)

    @contextmanager
    def _checked(self) -> Iterator[None]:
        """A mistake of this rank's own is told to the others before it is raised."""
        try:
            yield
        except RankError as error:
            self.fail(str(error))
            self.world.raise_failure()
