"""Engines whose collectives are of the same kinds, but not as many or not in the same order, are refused at load."""

import pytest
from ranked_engines import rank_engine
from small_engines import build, packed

from trtllm_ext.embedded.plan import CollectiveStep
from trtllm_ext.errors import RankError
from trtllm_ext.graph import functional
from trtllm_ext.parallel import run_ranks
from trtllm_ext.runtime import Session
from trtllm_ext.runtime.ranks.collective_order import check_same_order, compare_orders, digest_of_order

BUDGET_S = 3


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("TRTLLM_EXT_NUM_THREADS", "1")


def step(layer, operation="ALL_REDUCE", reduce_op="SUM", group=(0, 1), dtype="float32", most=80):
    return CollectiveStep(layer, operation, reduce_op, group, "a", "b", dtype, most)


GATHER = step("gather", "ALL_GATHER", "NONE")
SUMS = [step("first"), step("second", most=40), GATHER]


def check(*by_rank):
    """What `check_same_order` raises on each rank, or None."""

    def work(end):
        digests = end.exchange(digest_of_order(by_rank[end.rank]))
        try:
            check_same_order(end, digests, by_rank[end.rank])
        except RankError as problem:
            return str(problem)
        return None

    return run_ranks(len(by_rank), work)


def test_one_more_on_one_rank():
    sentence = (
        "the engine of rank 2 has other collectives than that of rank 0: 4 and 3; the first that differs is number 2, "
        "on rank 2 all_reduce (sum) of 40 float32 over [0, 1, 2] ('tap'), on rank 0 all_gather of 80 float32 over "
        "[0, 1, 2] ('gather'). Build all ranks with one command."
    )
    group = (0, 1, 2)
    ours = [
        step("first", group=group),
        step("gather", "ALL_GATHER", "NONE", group=group),
        step("last", most=40, group=group),
    ]
    more = [ours[0], step("tap", most=40, group=group), *ours[1:]]
    assert check(ours, ours, more) == [sentence] * 3


@pytest.mark.parametrize(
    "theirs, said",
    [
        (SUMS[:-1], "2 and 3; the first that differs is number 3, on rank 1 none, on rank 0 all_gather"),
        ([*SUMS, GATHER], "4 and 3; the first that differs is number 4, .* on rank 0 none"),
        ([SUMS[1], SUMS[0], GATHER], "3 each; the first that differs is number 1,"),
        ([SUMS[0], step("second", most=41), GATHER], "number 2, on rank 1 .* of 41 .* on rank 0 .* of 40 "),
        (
            [SUMS[0], step("second", reduce_op="MAX", most=40), GATHER],
            r"number 2, on rank 1 all_reduce \(max\)",
        ),
        ([SUMS[0], step("second", dtype="int32", most=40), GATHER], "number 2, on rank 1 .* int32"),
        ([SUMS[0], step("second", group=(1, 0), most=40), GATHER], r"number 2, on rank 1 .* over \[1, 0\]"),
    ],
)
def test_what_differs(theirs, said):
    told = [
        [[s.operation, s.reduce_op, list(s.group), s.dtype, s.max_elements, s.layer] for s in steps]
        for steps in (SUMS, theirs)
    ]
    with pytest.raises(RankError, match=said):
        compare_orders(told)
    assert digest_of_order(SUMS) != digest_of_order(theirs)


def test_names_of_layers_are_no_difference():
    renamed = [step("a"), step("b", most=40), step("c", "ALL_GATHER", "NONE")]
    assert check(SUMS, renamed) == [None, None]
    assert digest_of_order(SUMS) == digest_of_order(renamed)


def test_groups_that_share_no_rank_do_as_they_like():
    pairs = [step("x", group=(2, 3)), step("y", group=(2, 3))]
    assert check([step("x")], [step("x")], pairs, pairs) == [None] * 4


def engine_that_sums_twice():
    def define():
        x = packed()
        once = functional.allreduce(x, [0, 1])
        (functional.allreduce(once, [0, 1]) + x).mark_output("y", "float32")

    return bytes(memoryview(build(define)))


def test_engines_of_the_same_kinds_do_not_load_together():
    engines = [rank_engine(0, 2), engine_that_sums_twice()]

    def work(end):
        with pytest.raises(
            RankError, match=r"rank 1 has other collectives than that of rank 0: 2 and 1; .* 2, "
        ):
            Session.from_serialized_engine(engines[end.rank], communicator=end)

    run_ranks(2, work)
