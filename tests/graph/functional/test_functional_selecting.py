"""Top-k, masks, scatters, running sums, sampling against numpy and torch."""

import ml_dtypes
import numpy as np
import pytest
import torch
from sampling import covered

from trtllm_ext.errors import GraphError
from trtllm_ext.graph import functional as fn
from trtllm_ext.graph.functional import cumulative

BUDGET_S = 8

RNG = np.random.default_rng(7)
X = RNG.permutation(60).reshape(3, 4, 5).astype(np.float32)
VARY = [(-1, -1, -1)]
TYPES = [np.float32, np.float16, ml_dtypes.bfloat16, np.int32, np.int64]


@covered(dim=[0, 1, -1], largest=[True, False], shapes=[None, VARY])
def test_topk(run, dim, largest, shapes):
    values, indices = run(lambda x: fn.topk(x, 2, dim, largest), X, shapes=shapes)
    expected = torch.topk(torch.tensor(X), 2, dim, largest)
    np.testing.assert_array_equal(values, expected.values)
    np.testing.assert_array_equal(indices, expected.indices)
    assert indices.dtype == np.int32


@pytest.mark.parametrize("shape", [(), (1,)])
def test_topk_by_a_tensor(run, shape):
    k = np.full(shape, 3, np.int32)
    values, indices = run(
        lambda x: fn.topk(x, fn.constant(k), -1, prefer_plugin=False), X, shapes=[(-1, 4, 5)]
    )
    expected = torch.topk(torch.tensor(X), 3, -1)
    np.testing.assert_array_equal(values, expected.values)
    np.testing.assert_array_equal(indices, expected.indices)


@covered(dim=[0, 1, -1], keepdim=[True, False])
def test_argmax(run, dim, keepdim):
    got = run(lambda x: fn.argmax(x, dim, keepdim), X, shapes=VARY)
    np.testing.assert_array_equal(got, np.argmax(X, dim, keepdims=keepdim))
    assert got.dtype == np.int32
    ties = np.array([[1, 3, 3], [2, 2, 2]], np.float32)
    np.testing.assert_array_equal(run(lambda x: fn.argmax(x, -1), ties), [1, 0])


def test_topk_errors(guarded):
    _, add_input = guarded
    x, k = add_input("x", "float32", [2, 3]), add_input("k", "int32", [2])
    for call, text in [
        (lambda: fn.topk(x, 4, 1), "k from 1 to the size 3 of dimension 1, got 4"),
        (lambda: fn.topk(x, 0, 1), "got 0"),
        (lambda: fn.topk(x, 1, 2), "dimension 2 is out of range"),
        (lambda: fn.topk(x, x, 1), "k is float32; it takes int32 or int64"),
        (lambda: fn.topk(x, k, 1), r"takes one k, got the shape \(2,\)"),
        (lambda: fn.argmax(x, -3), "out of range"),
    ]:
        with pytest.raises(GraphError, match=text):
            call()


@covered(dtype=TYPES, dim=[0, 1, -1])
def test_scatter(run_rounded, dtype, dim):
    x = X.astype(dtype)
    indices = np.argsort(RNG.random((3, 4, 5)), axis=dim).astype(np.int32)[:2, :2, :2]
    indices = np.argsort(indices, axis=dim).astype(np.int32)  # each place once
    updates = -np.ones((2, 2, 2), dtype)
    got = run_rounded(lambda x, i, u: fn.scatter(x, dim, i, u), x, indices, updates, shapes=[VARY[0]] * 3)
    expected = x.copy()
    np.put_along_axis(
        expected[tuple(np.s_[:2] if i != dim % 3 else np.s_[:] for i in range(3))], indices, updates, dim
    )
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, expected)


def test_scatter_nd(run_rounded):
    places = np.array([[0, 3], [2, 1]], np.int64)
    rows = np.zeros((2, 5), np.float32)
    got = run_rounded(fn.scatter_nd, X, places, rows, shapes=[VARY[0], (-1, 2), (-1, -1)])
    expected = X.copy()
    expected[0, 3] = expected[2, 1] = 0
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("batch_dims", [0, 1])
def test_gather_nd(run_rounded, batch_dims):
    indices = np.array([[[0, 1], [2, 3]], [[1, 1], [0, 4]], [[2, 0], [3, 2]]], np.int32)
    if batch_dims == 0:
        indices = np.minimum(indices, 2)
    got = run_rounded(lambda x, i: fn.gather_nd(x, i, batch_dims), X, indices, shapes=[VARY[0], (-1, -1, 2)])
    if batch_dims:
        expected = [[X[b, i, j] for i, j in rows] for b, rows in enumerate(indices)]
    else:
        expected = [[X[i, j] for i, j in rows] for rows in indices]
    np.testing.assert_array_equal(got, expected)


def test_scatter_errors(guarded):
    _, add_input = guarded
    x, i = add_input("x", "float32", [2, 3]), add_input("i", "int32", [2, 3])
    half, flat = add_input("h", "float16", [2, 3]), add_input("f", "int32", [3])
    for call, text in [
        (lambda: fn.scatter(x, 0, x, x), "indices is float32"),
        (lambda: fn.scatter(x, 0, i, half), "different types, float32 and float16"),
        (lambda: fn.scatter(x, 2, i, x), "dimension 2 is out of range"),
        (lambda: fn.scatter(x, 0, flat, x), "one rank"),
        (lambda: fn.masked_select(x, i), "mask is int32; it takes bool"),
        (lambda: fn.masked_scatter(x, i, half), "different types"),
        (lambda: fn.masked_select(add_input("s", "float32", []), i), "rank 1 or more"),
        (lambda: fn.gather_nd(x, half), "indices is float16"),
        (lambda: fn.cumsum(x, 2), "out of range"),
        (lambda: fn.cumsum(add_input("c", "float32", []), 0), "rank 1 or more"),
        (lambda: fn.rand(i), "rand is not available"),
        (lambda: fn.categorical_sample(x), "needs rand_data"),
        (lambda: fn.categorical_sample(x, x), "one number a row"),
    ]:
        with pytest.raises(GraphError, match=text):
            call()


@covered(dtype=TYPES, mask_shape=[(3, 4, 5), (4, 1), (5,), (1,)])
def test_masked_scatter(run_rounded, dtype, mask_shape):
    mask = RNG.random(mask_shape) < 0.6
    count = int(np.broadcast_to(mask, X.shape).sum())
    source = np.arange(100, 100 + count).astype(dtype)
    got = run_rounded(fn.masked_scatter, X.astype(dtype), mask, source, shapes=[VARY[0], mask_shape, (-1,)])
    expected = X.astype(dtype)
    expected[np.broadcast_to(mask, X.shape)] = source
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("mask_shape", [(3, 4, 5), (4, 1), (5,)])
def test_masked_select_and_nonzero(run, mask_shape):
    mask = RNG.random(mask_shape) < 0.5

    def define(x, mask):
        # Sums and counts, whose shapes are known before the run.
        chosen, places = fn.masked_select(x, mask), fn.nonzero(mask)
        return fn.sum(chosen, 0), fn.shape(chosen), fn.sum(places, 1), fn.shape(places)

    total, shape, places, places_shape = run(define, X, mask, shapes=[VARY[0], mask_shape])
    expected = X[np.broadcast_to(mask, X.shape)]
    np.testing.assert_allclose(total, expected.sum())
    np.testing.assert_array_equal(shape, expected.shape)
    np.testing.assert_array_equal(places, np.stack(np.nonzero(mask)).sum(1))
    np.testing.assert_array_equal(places_shape, [mask.ndim, mask.sum()])


@covered(dtype=TYPES, dim=[0, 1, -1])
def test_cumsum(run_rounded, dtype, dim):
    x = (X / 8).astype(dtype)
    for shapes in (None, VARY):
        got = run_rounded(lambda x: fn.cumsum(x, dim), x, shapes=shapes)
        composed = run_rounded(lambda x: cumulative._composed(x, dim % 3), x, shapes=shapes)
        expected = np.cumsum(x.astype(np.float64), dim).astype(dtype)
        assert got.dtype == dtype
        np.testing.assert_allclose(got.astype(np.float64), expected.astype(np.float64), rtol=1e-2)
        np.testing.assert_allclose(composed.astype(np.float64), expected.astype(np.float64), rtol=1e-2)
    if dtype == np.float32:
        infinite = np.array([1, np.inf, 2], np.float32)
        np.testing.assert_array_equal(
            run_rounded(lambda x: cumulative._composed(x, 0), infinite), [1, np.inf, np.inf]
        )


def test_categorical_sample(run):
    probs = np.array([[1, 0, 3], [0, 2, 2], [5, 0, 0]], np.float32)
    for draw, expected in [(0.0, [0, 0, 0]), (0.24, [0, 1, 0]), (0.26, [2, 1, 0]), (0.6, [2, 2, 0])]:
        numbers = np.full(3, draw, np.float32)
        got = run(fn.categorical_sample, probs, numbers, shapes=[(-1, 3), (-1,)])
        np.testing.assert_array_equal(got, expected)
        assert got.dtype == np.int32
    one = run(fn.categorical_sample, probs[0], np.array(0.9, np.float32))
    assert one.shape == () and one == 2
