"""Collectives of graph.functional over ranks that are threads: oracle and engine beside numpy, and each other."""

import ml_dtypes
import numpy as np
import pytest
from networks_of_ranks import RankNetwork, run_networks
from sampling import covered

import trtllm_ext.graph.functional as fn

BUDGET_S = 8

TYPES = [np.float32, np.float16, ml_dtypes.bfloat16]
GROUPS = [[0, 1], [2, 0, 1]]


@pytest.fixture(autouse=True)
def embedded_backend(monkeypatch):
    monkeypatch.setenv("TRTLLM_EXT_BACKEND", "embedded")
    monkeypatch.setenv("TRTLLM_EXT_NUM_THREADS", "1")


@pytest.fixture(params=["oracle", "embedded"])
def values(request):
    """values(define, arrays by rank, varying): by rank the outputs of define(*tensors), or each rank's own."""

    def run(define, arrays, varying=False):
        definitions = define if isinstance(define, list) else [define] * len(arrays)
        networks = [RankNetwork(*each, varying) for each in zip(definitions, arrays, strict=True)]
        return run_networks(networks, request.param)

    run.rounds = request.param == "embedded"
    return run


def numbers(count, shape, dtype, seed=0):
    """Arrays of eighths, of which float32 adds up a few without rounding."""
    random = np.random.default_rng(seed)
    return [(random.integers(-1000, 1000, shape) / 8).astype(dtype) for _ in range(count)]


def bits(array):
    return np.ascontiguousarray(array).view(np.uint8)


@covered(varying=[False, True], dtype=TYPES, group=GROUPS)
def test_sums(values, group, dtype, varying):
    parts = numbers(len(group), (6, 5), dtype)
    total = sum(array.astype(np.float64) for array in parts)

    def define(x):
        return fn.allreduce(x, group), fn.reduce_scatter(x, group)

    for rank, (whole, part) in enumerate(values(define, [[array] for array in parts], varying)):
        np.testing.assert_array_equal(whole, total.astype(dtype))
        np.testing.assert_array_equal(part, np.split(total, len(group))[group.index(rank)].astype(dtype))


@pytest.mark.parametrize("dtype", TYPES[1:])
def test_narrow_types_are_rounded_once(values, dtype):
    """2^k + 1 + 1 is 2^k when each sum is rounded, where the spacing is 2."""
    large = 2.0 ** (ml_dtypes.finfo(dtype).nmant + 1)
    parts = [np.full((3, 1), value, dtype) for value in (large, 1, 1)]
    assert np.array_equal(parts[0] + parts[1], parts[0])
    for whole, part in values(
        lambda x: (fn.allreduce(x, [0, 1, 2]), fn.reduce_scatter(x, [0, 1, 2])), [[array] for array in parts]
    ):
        assert whole.tolist() == [[large + 2]] * 3
        assert part.tolist() == [[large + 2]]


@covered(varying=[False, True], dtype=[*TYPES, np.int64])
@pytest.mark.parametrize(("shape", "dim"), [((2, 3, 4), 0), ((2, 3, 4), 1), ((2, 3, 4), -1), ((5,), -1)])
def test_gathers(values, shape, dim, dtype, varying):
    for group in GROUPS:
        parts = numbers(len(group), shape, dtype)
        joined = np.concatenate([parts[rank] for rank in group], axis=dim)
        for [got] in values(
            lambda x, group=group: fn.allgather(x, group, dim), [[a] for a in parts], varying
        ):
            np.testing.assert_array_equal(bits(got), bits(joined))


def test_ranks_outside_of_a_group_are_not_waited_for(values):
    """Two pairs among four ranks."""
    parts = numbers(4, (2, 3), np.float32)
    networks = [lambda x, group=group: fn.allreduce(x, group) for group in [[0, 2], [1, 3]] * 2]
    for rank, [got] in enumerate(values(networks, [[array] for array in parts])):
        np.testing.assert_array_equal(got, parts[rank % 2] + parts[rank % 2 + 2])


def fused(bias, weight):
    """y = an all-reduce of x0 with what follows it, of x1 = residual: normed, sum."""

    def define(group):
        def network(x, residual):
            params = fn.AllReduceParams(
                fusion_op=fn.AllReduceFusionOp.RESIDUAL_RMS_NORM,
                bias=fn.constant(bias),
                residual=residual,
                norm_weight=fn.constant(weight),
                eps=1e-3,
            )
            return fn.allreduce(x, group, params)

        return network

    return define


@covered(varying=[False, True], dtype=TYPES)
def test_residual_and_norm_behind_the_sum(values, dtype, varying):
    parts = numbers(2, (4, 8), dtype)
    [residual] = numbers(1, (4, 8), dtype, seed=1)
    random = np.random.default_rng(2)
    bias, weight = (random.normal(size=8).astype(dtype) for _ in range(2))
    define = fused(bias, weight)
    total = sum(array.astype(np.float64) for array in parts)
    wide = total + bias.astype(np.float64) + residual.astype(np.float64)
    normed = wide / np.sqrt(np.mean(wide**2, axis=-1, keepdims=True) + 1e-3) * weight.astype(np.float64)
    step = float(ml_dtypes.finfo(dtype).eps)
    results = values(define([0, 1]), [[array, residual] for array in parts], varying)
    for got_normed, got_total in results:
        np.testing.assert_allclose(got_total.astype(np.float64), wide, rtol=2 * step, atol=256 * step)
        np.testing.assert_allclose(got_normed.astype(np.float64), normed, rtol=6 * step, atol=6 * step)
    if not values.rounds:
        return
    # The same bits as in a network that is given the sum: it rounds where that does.
    alone = values(define([0]), [[total.astype(dtype), residual]], varying)[0]
    for own in results:
        for got, want in zip(own, alone, strict=True):
            np.testing.assert_array_equal(bits(got), bits(want))


@covered(sharding_dim=[0, 1], dtype=TYPES, varying=[False, True])
def test_embedding_of_a_table_that_is_spread(values, dtype, sharding_dim, varying):
    [table] = numbers(1, (6, 4), dtype)
    ids = np.array([[0, 5, 2], [3, 3, 1]], np.int32)
    networks = [
        lambda x, rank=rank, own=own: fn.embedding(
            x, fn.constant(np.ascontiguousarray(own)), 2, [0, 1], sharding_dim, tp_rank=rank
        )
        for rank, own in enumerate(np.split(table, 2, axis=sharding_dim))
    ]
    for [got] in values(networks, [[ids], [ids]], varying):
        np.testing.assert_array_equal(bits(got), bits(table[ids]))
