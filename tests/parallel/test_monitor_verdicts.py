"""When ranks are told to end, and why: over states that nothing runs behind."""

import pytest

from trtllm_ext.parallel.watch.verdicts import BUSY_FACTOR, RankState, judge, names

BUDGET_S = 1

NOW, TIMEOUT = 1000.0, 10.0


def state(rank, kind, seconds=0.0, *, text="all_reduce", heard=NOW - 0.1, **fields):
    return RankState(rank, heard, "node7", kind=kind, number=7, text=text, seconds=seconds, **fields)


def verdict(*states):
    return judge(states, NOW, TIMEOUT)


@pytest.mark.parametrize("kind", ["computing", "waiting", "busy", "left"])
def test_ranks_in_good_order(kind):
    assert verdict(state(0, "waiting", 9.8), state(1, kind if kind != "left" else "waiting", 9.8)) is None
    assert verdict(state(0, "left", 99.0), state(1, "left", 99.0)) is None
    assert verdict(state(0, "computing", 99.0), state(1, kind, 1.0)) is None


def test_silence():
    assert "rank 1 on node7 has not been heard of for 5 s" in verdict(
        state(0, "computing"), state(1, "computing", heard=NOW - 5.1)
    )
    assert "ranks 0 and 2 on node7 have not been heard" in verdict(
        *(state(rank, "waiting", heard=NOW - (0.1 if rank == 1 else 6.0)) for rank in range(3))
    )
    assert verdict(state(0, "computing"), state(1, "left", heard=NOW - 99.0, is_gone=True)) is None


def test_a_rank_that_does_not_arrive():
    said = verdict(state(0, "waiting", 10.0), state(1, "computing", 12.0, text="all_gather"))
    assert said.startswith(
        "rank 1 has not arrived within 10 s at all_reduce (operation 7), where rank 0 waits"
    )
    assert "rank 1 has been computing for 12 s, after operation 7 (all_gather)" in said
    assert "stopped" in verdict(state(0, "waiting", 10.0), state(1, "waiting", 12.0, is_stopped=True))


def test_a_rank_that_never_started():
    said = verdict(state(0, "waiting", 10.0, text="MPI_Init"), RankState(1), RankState(2))
    assert said == "ranks 1 and 2 have not started within 10 s: rank 0 waits in MPI_Init (operation 7)"


def test_a_rank_at_work_alone_is_waited_for_longer():
    assert verdict(state(0, "waiting", 99.0), state(1, "busy", 99.0, text="loading")) is None
    said = verdict(state(0, "waiting", 999.0), state(1, "busy", BUSY_FACTOR * 10.0 + 1, text="loading"))
    assert "busy for 601 s: loading" in said


def test_a_rank_that_was_at_work_alone_gets_the_whole_time_afterwards():
    waiting = state(0, "waiting", 99.0)
    assert verdict(waiting, state(1, "computing", 9.0, busy_until=NOW - 9.0)) is None
    assert "rank 1 has not arrived" in verdict(waiting, state(1, "computing", 11.0, busy_until=NOW - 11.0))


def test_a_rank_that_has_left_is_not_waited_for():
    assert verdict(state(0, "waiting", 1.0), state(1, "left", 1.0)) is None
    assert "rank 1 has left, but rank 0 still waits" in verdict(
        state(0, "waiting", 2.0), state(1, "left", 2.0)
    )


def test_a_wait_that_may_have_ended_when_the_other_rank_left():
    assert verdict(state(0, "waiting", 5.0), state(1, "left", 0.3)) is None


def test_ranks_in_different_operations():
    said = verdict(state(0, "waiting", 10.0), state(1, "waiting", 9.0, text="all_gather"))
    assert "rank 0 in all_reduce (operation 7), rank 1 in all_gather (operation 7)" in said


def test_an_operation_that_does_not_end():
    assert verdict(state(0, "waiting", 15.0), state(1, "waiting", 5.0)) is None
    assert "MPI's own link" in verdict(state(0, "waiting", 10.0), state(1, "waiting", 10.0))


def test_only_the_own_group_is_waited_for_and_whom_it_waits_for():
    apart = [
        state(0, "waiting", 10.0, group=(0, 1)),
        state(1, "waiting", 10.0, group=(1, 2)),
        state(2, "computing", 11.0),
        state(3, "computing", 99.0),
    ]
    assert verdict(*apart).startswith("rank 2 has not arrived")
    apart[2] = state(2, "busy", 11.0)
    assert verdict(*apart) is None


def test_names():
    assert [names(list(range(n))) for n in (1, 2, 4, 9)] == [
        "rank 0",
        "ranks 0 and 1",
        "ranks 0, 1, 2 and 3",
        "ranks 0, 1, 2 and 6 more",
    ]
