"""Ranks inside one process: what collectives give, and that every fault of one rank reaches all, by name."""

import re
import threading
import time

import numpy as np
import pytest
from rank_cases import values_of

from trtllm_ext.errors import RankError
from trtllm_ext.parallel import LocalWorld, run_ranks

BUDGET_S = 2


def total_in_order(parts):
    """The sum of arrays element by element, first to last, in their own type."""
    total = parts[0].copy()
    for part in parts[1:]:
        for place in range(part.size):
            total[place] = total.dtype.type(total[place] + part[place])
    return total


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64"])
@pytest.mark.parametrize("group", [[0, 1, 2, 3], [3, 1, 0, 2]])
def test_sums_go_through_the_group_in_order(group, dtype):
    def rank(communicator):
        whole = values_of(communicator.rank, 1000, dtype)
        part = np.empty(250, dtype)
        communicator.reduce_scatter(whole, part, group)
        communicator.all_reduce(whole, group)
        return whole, part

    expected = total_in_order([values_of(rank, 1000, dtype) for rank in group])
    if dtype == "float32":
        other_order = total_in_order([values_of(rank, 1000, dtype) for rank in (2, 1, 3, 0)])
        assert other_order.tobytes() != expected.tobytes()
    for number, (whole, part) in enumerate(run_ranks(4, rank)):
        assert whole.tobytes() == expected.tobytes()
        place = group.index(number)
        assert part.tobytes() == expected[place * 250 : (place + 1) * 250].tobytes()


@pytest.mark.parametrize(
    "op, expected", [("sum", [-1, 7]), ("prod", [-6, 12]), ("max", [2, 4]), ("min", [-3, 3])]
)
def test_operations(op, expected):
    def rank(communicator):
        values = np.array([[2, 4], [-3, 3]], np.int64)[communicator.rank]
        communicator.all_reduce(values, [0, 1], op)
        return values.tolist()

    assert run_ranks(2, rank) == [expected, expected]


def test_gathering_and_exchanging():
    def rank(communicator):
        gathered = np.empty((3, 2), np.float16)
        communicator.all_gather(np.full((1, 2), communicator.rank, np.float16), gathered, [2, 0, 1])
        return gathered[:, 0].tolist(), communicator.exchange([communicator.rank, None])

    assert run_ranks(3, rank) == [([2.0, 0.0, 1.0], [[0, None], [1, None], [2, None]])] * 3


def test_what_the_first_of_a_group_has_goes_to_the_others():
    def rank(communicator):
        values = np.array([communicator.rank, 7 * communicator.rank], np.float16)
        communicator.broadcast(values.reshape(1, 2), [2, 0, 1])
        return values.tolist()

    assert run_ranks(3, rank) == [[2.0, 14.0]] * 3


def test_groups_beside_one_another():
    def rank(communicator):
        values = np.full(3, communicator.rank, np.float32)
        for _ in range(50):
            communicator.all_reduce(values, [0, 1] if communicator.rank < 2 else [2, 3], "max")
        return values[0]

    assert run_ranks(4, rank) == [1, 1, 3, 3]


def zeros(size, dtype=np.float32):
    return np.zeros(size, dtype)


ALL_OF_3 = r"all_reduce \(sum\) of 3 float32 values over ranks 0, 1"
FAULTS = {
    "another size": (
        lambda c: c.all_reduce(zeros(3 + c.rank), [0, 1]),
        r"rank (0|1) called all_reduce .* of (3|4) .* where rank (1|0) called all_reduce .* of (3|4) ",
    ),
    "another type": (
        lambda c: c.all_reduce(zeros(3, [np.int32, np.int64][c.rank]), [0, 1]),
        r"rank (0|1) called .* of 3 int(32|64) values .* where rank (1|0) called .* of 3 int(32|64)",
    ),
    "another reduction": (
        lambda c: c.all_reduce(zeros(3), [0, 1], ["max", "min"][c.rank]),
        r"rank (0|1) called all_reduce \(m..\) .* where rank (1|0) called all_reduce \(m..\)",
    ),
    "another operation": (
        lambda c: c.all_reduce(zeros(3), [0, 1]) if c.rank else c.exchange(1),
        rf"rank 1 called {ALL_OF_3} where rank 0 called exchange|"
        rf"rank 0 called exchange over all ranks where rank 1 called {ALL_OF_3}",
    ),
    "another group": (
        lambda c: c.all_reduce(zeros(3), [[0, 1], [1, 0]][c.rank]),
        r"rank (0|1) called .* over ranks (0, 1|1, 0) where rank (1|0) called .* over ranks (0, 1|1, 0)",
    ),
    "late": (
        lambda c: c.all_reduce(zeros(3), [0, 1]) if c.rank == 0 else time.sleep(0.5),
        rf"rank 1 did not come to {ALL_OF_3} within 0\.2 s",
    ),
    "left": (
        lambda c: c.all_reduce(zeros(3), [0, 1]) if c.rank == 0 else None,
        rf"rank 1 has left; rank 0 waits for it in {ALL_OF_3}",
    ),
    "told": (
        lambda c: c.all_reduce(zeros(3), [0, 1]) if c.rank == 0 else c.fail("no disk"),
        r"rank 1 failed: no disk",
    ),
    "narrow type": (
        lambda c: c.all_reduce(zeros(3, np.float16 if c.rank else np.float32), [0, 1]),
        r"rank 1 failed: all_reduce of float16 is not possible, only of float32, .*; cast to float32",
    ),
    "result of another size": (
        lambda c: c.all_gather(zeros(3), zeros(6 - c.rank), [0, 1]),
        r"rank 1 failed: all_gather: the result has room for 5 values, not for the 6 that come",
    ),
    "indivisible": (
        lambda c: c.reduce_scatter(zeros(3), zeros(1), [0, 1]),
        r"rank (0|1) failed: reduce_scatter: 3 values do not split into 2 equal parts",
    ),
    "strided": (
        lambda c: c.all_reduce(zeros((3, 2))[:, c.rank], [0, 1]),
        r"rank (0|1) failed: all_reduce: an array of strides \(8,\) is not C-contiguous",
    ),
    "outside": (
        lambda c: c.all_reduce(zeros(3), [0, 2]),
        r"rank (0|1) failed: all_reduce: \[0, 2\] is not a group for rank (0|1): it needs different ranks of 0\.\.1",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_rank_hears_the_cause(fault):
    function, message = FAULTS[fault]
    world = LocalWorld(2, timeout=0.2)
    heard = {}

    def rank(communicator):
        try:
            function(communicator)
            if fault == "left" and communicator.rank == 1:
                communicator.close()
            # Whoever had nothing to wait for hears it at its next operation.
            time.sleep(0.3)
            communicator.exchange(None)
        except RankError as error:
            heard[communicator.rank] = str(error)

    threads = [threading.Thread(target=rank, args=(each,), daemon=True) for each in world.communicators]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert heard.keys() == {0, 1}
    assert heard[0] == heard[1]
    assert re.match(message, heard[0]), heard[0]


def test_the_failed_ranks_own_error_is_raised():
    def rank(communicator):
        if communicator.rank == 2:
            raise ZeroDivisionError("no way")
        communicator.all_reduce(zeros(3), [0, 1, 2])

    with pytest.raises(ZeroDivisionError, match="no way"):
        run_ranks(3, rank)


def test_a_rank_that_never_returns_is_left_behind():
    never = threading.Event()

    def rank(communicator):
        if communicator.rank == 1:
            never.wait(20)
        communicator.all_reduce(zeros(3), [0, 1])

    begin = time.monotonic()
    with pytest.raises(RankError, match=r"rank 1 did not come to all_reduce"):
        run_ranks(2, rank, timeout=0.2)
    assert time.monotonic() - begin < 5
    never.set()


def test_a_rank_at_work_alone_is_waited_for():
    def rank(communicator):
        if communicator.rank == 1:
            with communicator.busy("loading rank1.engine"):
                time.sleep(1.2)
        return communicator.exchange(communicator.rank)

    assert run_ranks(2, rank, timeout=0.5) == [[0, 1], [0, 1]]


def test_two_threads_of_one_rank_are_refused():
    # Each rank's first would be summed with any of the other rank's.
    world = LocalWorld(2, timeout=5.0)
    heard = []

    def operation():
        try:
            world.communicators[0].all_reduce(zeros(3), [0, 1])
        except RankError as error:
            heard.append(str(error))

    threads = [threading.Thread(target=operation, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(3)
    assert len(heard) == 2
    assert heard[0] == heard[1]
    assert re.match(
        r"rank 0 failed: one thread called all_reduce .* while another one was in all_reduce", heard[0]
    )


def test_a_sum_that_is_too_large_is_infinite_and_no_warning():
    def rank(communicator):
        values = np.array([3e38, -3e38], np.float32)
        with np.errstate(all="raise"):
            communicator.all_reduce(values, [0, 1])
        return values.tolist()

    assert run_ranks(2, rank, timeout=2.0) == [[np.inf, -np.inf]] * 2


def test_what_the_last_to_come_cannot_do_is_told_to_all():
    # The result of rank 0 cannot be written.
    def rank(communicator):
        gathered = zeros(2)
        gathered.flags.writeable = communicator.rank == 1
        try:
            communicator.all_gather(zeros(1), gathered, [0, 1])
        except (RankError, ValueError) as error:
            return str(error)

    assert all("read-only" in text for text in run_ranks(2, rank, timeout=2.0))


def test_a_failed_world_stays_failed():
    world = LocalWorld(1)
    world.communicators[0].fail("once")
    with pytest.raises(RankError, match="rank 0 failed: once"):
        world.communicators[0].exchange(1)
