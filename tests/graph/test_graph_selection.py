"""Gathers, embeddings, where and concatenation against numpy."""

import numpy as np
import pytest
from sampling import covered

from trtllm_ext.errors import GraphError
from trtllm_ext.graph import functional as fn

BUDGET_S = 12

X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


@covered(dim=[0, 1, -1], index=[0, 1, -1])
def test_select(run, dim, index):
    np.testing.assert_array_equal(run(lambda x: fn.select(x, dim, index), X), np.take(X, index, dim))


@pytest.mark.parametrize("shape", [(), (1,)])
def test_select_by_tensor(run, shape):
    index = np.full(shape, 2, np.int32)
    np.testing.assert_array_equal(
        run(lambda x, i: fn.select(x, -1, i), X, index, shapes=[(-1, -1, 4), shape]), X[..., 2]
    )


def test_select_errors(guarded):
    _, add_input = guarded
    x = add_input("x", "float32", [2, -1])
    with pytest.raises(GraphError, match=r"index 2 is out of range for dimension 0 of \(2, -1\)"):
        fn.select(x, 0, 2)
    with pytest.raises(GraphError, match="counts index -1 from the end of dimension 1, whose size varies"):
        fn.select(x, 1, -1)
    with pytest.raises(GraphError, match=r"select takes one index, got the shape \(2, 2\)"):
        fn.select(x, 0, add_input("i", "int32", [2, 2]))


def test_index_select(run, guarded):
    index = np.array([2, 0, 2], np.int64)
    np.testing.assert_array_equal(run(lambda x, i: fn.index_select(x, 1, i), X, index), X[:, index])
    _, add_input = guarded
    with pytest.raises(GraphError, match="rank-1 index"):
        fn.index_select(add_input("x", "float32", [2]), 0, add_input("i", "int32", []))


@pytest.mark.parametrize("dim", [0, 2, -1])
def test_gather_takes_elements(run, dim):
    index = np.random.default_rng(1).integers(0, 2, size=(2, 3, 4)).astype(np.int32)
    np.testing.assert_array_equal(
        run(lambda x, i: fn.gather(x, dim, i), X, index), np.take_along_axis(X, index.astype(np.int64), dim)
    )


def test_gather_with_an_int_and_errors(run, guarded):
    np.testing.assert_array_equal(run(lambda x: fn.gather(x, 0, 3), X.reshape(-1)), [3])
    _, add_input = guarded
    with pytest.raises(GraphError, match=r"got \(5,\) for \(2, 3\)"):
        fn.gather(add_input("x", "float32", [2, 3]), 0, add_input("i", "int32", [5]))
    with pytest.raises(GraphError, match="indices is float32; it takes int32 or int64"):
        fn.gather(add_input("y", "float32", [2]), 0, add_input("j", "float32", [2]))


@pytest.mark.parametrize("shape", [(2, 3), (-1, -1), (-1, 3)])
def test_embedding(run, shape):
    ids = np.array([[1, 0, 4], [2, 2, 3]], np.int32)
    table = np.random.default_rng(2).normal(size=(5, 6)).astype(np.float32)
    np.testing.assert_array_equal(
        run(lambda ids: fn.embedding(ids, fn.constant(table)), ids, shapes=[shape]), table[ids]
    )


def test_negative_ids_of_an_embedding_count_from_the_end(run):
    table = np.arange(10, dtype=np.float32).reshape(5, 2)
    got = run(lambda ids: fn.embedding(ids, fn.constant(table)), np.array([-1, -5], np.int32))
    np.testing.assert_array_equal(got, table[[4, 0]])


@pytest.mark.parametrize("rank", [0, 1])
def test_embedding_of_a_part_of_a_table(run, rank):
    ids = np.array([[0, 4, 5], [9, 2, 7]], np.int32)
    table = np.random.default_rng(5).normal(size=(10, 3)).astype(np.float32)
    own = table[5 * rank : 5 * rank + 5]
    got = run(lambda ids: fn.embedding(ids, fn.constant(own), 2, [0], tp_rank=rank), ids, shapes=[(-1, -1)])
    np.testing.assert_array_equal(got, np.where((ids // 5 == rank)[..., None], table[ids], 0))


def test_embedding_with_more_rows(run):
    table, more = np.ones((4, 2), np.float32), np.full((1, 2), 7, np.float32)
    got = run(
        lambda ids: fn.embedding(ids, fn.constant(table), padding=fn.constant(more)),
        np.array([4, 0], np.int32),
    )
    np.testing.assert_array_equal(got, [[7, 7], [1, 1]])


def test_embedding_errors(guarded):
    _, add_input = guarded
    ids, table = add_input("ids", "int32", [3]), add_input("t", "float32", [5, 6])
    with pytest.raises(GraphError, match="needs tp_rank"):
        fn.embedding(ids, table, tp_size=2, tp_group=[0, 1])
    with pytest.raises(GraphError, match="needs Lookup, a compiled plugin"):
        fn.embedding(ids, table, per_token_scale=table)
    with pytest.raises(GraphError, match="input is float32; it takes int32 or int64"):
        fn.embedding(table, table)
    with pytest.raises(GraphError, match=r"weight \(num_embeddings, width\), got the shape \(3,\)"):
        fn.embedding(ids, add_input("v", "float32", [3]))


def test_where(run):
    condition = np.array([True, False, True, False])
    np.testing.assert_array_equal(run(fn.where, condition, X, -X), np.where(condition, X, -X))
    got = run(lambda c, x: fn.where(c, x, 0), condition, X.astype(np.float16))
    assert got.dtype == np.float16
    np.testing.assert_array_equal(got, np.where(condition, X, 0))
    got = run(lambda c: (fn.where(c, 1, 0), fn.where(c, 0.0, float("-inf")), fn.where(True, 2, 3)), condition)
    np.testing.assert_array_equal(got[0], condition.astype(np.int32))
    np.testing.assert_array_equal(got[1], np.where(condition, 0, -np.inf))
    assert got[2] == 2


def test_where_errors(guarded):
    _, add_input = guarded
    x = add_input("x", "float32", [2])
    with pytest.raises(GraphError, match=r"where.*condition is float32; it takes bool"):
        fn.where(x, x, x)
    with pytest.raises(GraphError, match="different types, float32 and float16"):
        fn.where(x > 0.0, x, add_input("y", "float16", [2]))


def test_concat_and_stack(run):
    a, b = X, X[:, :1] + 100
    np.testing.assert_array_equal(
        run(lambda a, b: fn.concat([a, b, a], dim=-2), a, b, shapes=[(-1, 3, 4), (-1, 1, 4)]),
        np.concatenate([a, b, a], 1),
    )
    np.testing.assert_array_equal(run(lambda a: fn.stack([a, a], dim=1), X), np.stack([X, X], 1))


def test_concat_of_sizes(run):
    got = run(
        lambda x, n: fn.concat([fn.shape(x, 0), 8, n]), X, np.array([3], np.int32), shapes=[(-1, 3, 4), (1,)]
    )
    assert got.dtype == np.int64
    np.testing.assert_array_equal(got, [2, 8, 3])


def test_concat_errors(guarded):
    _, add_input = guarded
    with pytest.raises(GraphError, match="concat of an empty list"):
        fn.concat([])
    with pytest.raises(GraphError, match="different types, float32 and float16"):
        fn.concat([add_input("x", "float32", [2]), add_input("y", "float16", [2])])
    with pytest.raises(
        GraphError, match=r"CONCATENATION_0 does not work out for the inputs .*agree in all other dimensions"
    ):
        fn.concat([add_input("a", "float32", [2, 3]), add_input("b", "float32", [3, 2])], dim=0)
