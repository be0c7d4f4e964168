"""Every kind of collective of an engine is tried when it is loaded, in the size and type in which it will be used."""

from types import SimpleNamespace

import numpy as np
import pytest
from ranked_engines import Wrapped

from trtllm_ext.errors import RankError
from trtllm_ext.parallel import run_ranks
from trtllm_ext.runtime.ranks import load_check

BUDGET_S = 3


def collective(operation, reduce_op, dtype, most=10_000, group=(0, 1, 2)):
    return SimpleNamespace(
        operation=operation, reduce_op=reduce_op, group=group, dtype=dtype, max_elements=most, count=1
    )


KINDS = [
    collective("ALL_REDUCE", "SUM", "float32"),
    collective("ALL_REDUCE", "AVG", "float16"),
    collective("ALL_REDUCE", "PROD", "float32"),
    collective("ALL_REDUCE", "MAX", "int32"),
    collective("ALL_REDUCE", "MIN", "bfloat16"),
    collective("ALL_GATHER", "NONE", "bfloat16"),
    collective("ALL_GATHER", "NONE", "float32", most=1),
    collective("REDUCE_SCATTER", "SUM", "float32"),
    collective("REDUCE_SCATTER", "SUM", "bfloat16"),
]


class Noting(Wrapped):
    """Notes the types and sizes that are tried; spoils one value of each result if asked to."""

    def __init__(self, end, spoils=False):
        super().__init__(end)
        self.seen, self.spoils = [], spoils

    def _note(self, name, values, result):
        self.seen.append((name, str(values.dtype), values.size))
        if self.spoils and self.rank == 1:
            result.reshape(-1).view(np.uint8)[-1] ^= 1

    def all_reduce(self, values, group, op="sum"):
        super().all_reduce(values, group, op)
        self._note("all_reduce", values, values)

    def all_gather(self, values, gathered, group):
        super().all_gather(values, gathered, group)
        self._note("all_gather", values, gathered)

    def reduce_scatter(self, values, part, group, op="sum"):
        super().reduce_scatter(values, part, group, op)
        self._note("reduce_scatter", values, part)


def exercise(kinds, spoils=False):
    def work(end):
        noting = Noting(end, spoils)
        try:
            load_check.exercise_collectives(noting, kinds)
        except RankError as problem:
            return str(problem), noting.seen
        return None, noting.seen

    return run_ranks(3, work)


def test_sizes_and_types_as_in_runs():
    for problem, seen in exercise(KINDS):
        assert problem is None
        assert ("all_reduce", "float32", 10_000) in seen
        assert ("all_reduce", "float32", 5) in seen
        assert ("all_reduce", "int32", 10_000) in seen
        assert ("all_gather", "uint8", 20_000) in seen
        assert ("all_gather", "uint8", 4) in seen
        assert ("reduce_scatter", "float32", 10_002) in seen
        assert {dtype for name, dtype, _ in seen if name == "all_reduce"} == {"float32", "int32"}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.operation}-{kind.reduce_op}-{kind.dtype}")
def test_one_wrong_bit_on_one_rank_is_found(kind):
    told = exercise([kind], spoils=True)
    assert len({problem for problem, _ in told}) == 1
    assert f"rank 1: {kind.operation.lower()} of " in told[0][0]
    assert "gave 1 of " in told[0][0]


def test_the_largest_size_has_a_bound():
    most = load_check.MOST_BYTES // 4 // 3
    for problem, seen in exercise([collective("ALL_REDUCE", "SUM", "float32", most=most * 2)]):
        assert problem is None
        assert max(size for *_, size in seen) == most
