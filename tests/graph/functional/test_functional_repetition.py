"""Repetition, margins, reversal and named rearrangements against numpy and torch."""

import ml_dtypes
import numpy as np
import pytest
import torch
from sampling import covered

from trtllm_ext.errors import GraphError
from trtllm_ext.graph import functional as fn

BUDGET_S = 6

X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
TYPES = [np.float16, ml_dtypes.bfloat16, np.int32, np.int64, np.bool_]
ALL_VARY = [(-1, -1, -1)]


@pytest.mark.parametrize("sizes", [(2, 1, 3), (1, 1, 1), (2, 1, 2, 1)])
def test_repeat(run, sizes):
    expected = np.tile(X, sizes)
    np.testing.assert_array_equal(run(lambda x: fn.repeat(x, sizes), X, shapes=ALL_VARY), expected)
    np.testing.assert_array_equal(run(lambda x: x.repeat(sizes), X), expected)


@covered(dim=[0, 1, 2, -1, -3], shapes=[None, ALL_VARY, [(-1, 3, 4)]])
def test_repeat_interleave(run_rounded, dim, shapes):
    got = run_rounded(lambda x: fn.repeat_interleave(x, 3, dim), X, shapes=shapes)
    np.testing.assert_array_equal(got, np.repeat(X, 3, dim))


@pytest.mark.parametrize("dtype", TYPES)
def test_types_are_moved_as_they_are(run_rounded, dtype):
    x = X.astype(dtype)

    def define(x):
        return fn.repeat_interleave(x, 2, 0), fn.repeat(x, (1, 2, 1)), fn.flip(x, [-1]), fn.pad(x, [1, 0])

    got = run_rounded(define, x)
    expected = (x.repeat(2, 0), np.tile(x, (1, 2, 1)), x[..., ::-1], np.pad(x, [(0, 0), (0, 0), (1, 0)]))
    for mine, theirs in zip(got, expected, strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("shapes", [None, [(-1,), (-1,)], [(1, -1), (1, -1)]])
def test_meshgrid2d_and_repeats_that_vary(run_rounded, shapes):
    x, y = np.arange(3, dtype=np.float32), np.arange(5, dtype=np.float32) * 10
    if shapes and len(shapes[0]) == 2:
        x, y = x[None], y[None]
    got = run_rounded(fn.meshgrid2d, x, y, shapes=shapes)
    for mine, theirs in zip(got, np.meshgrid(x.ravel(), y.ravel(), indexing="ij"), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    repeated = run_rounded(lambda x, y: fn.repeat_interleave(x, fn.shape(y, -1), -1), x, y, shapes=shapes)
    np.testing.assert_array_equal(repeated, np.repeat(x, 5, -1))


def test_repetition_errors(guarded):
    _, add_input = guarded
    x = add_input("x", "float32", [2, 3])
    for call, text in [
        (lambda: fn.repeat(x, (2,)), "a size for each dimension"),
        (lambda: fn.repeat(x, (2, 0)), "whole numbers from 1 on"),
        (lambda: fn.repeat_interleave(x, 0, 1), "from 1 on, got 0"),
        (lambda: fn.repeat_interleave(x, 2, 2), "dimension 2 is out of range"),
        (lambda: fn.repeat_interleave(x, x, 1), "repeats is float32"),
        (lambda: fn.meshgrid2d(x, x), r"meshgrid2d takes x of shape \(n,\)"),
        (lambda: fn.flip(x, [0, -2]), "name one twice"),
        (lambda: fn.pad(x, [1]), "a pair"),
        (lambda: fn.pad(x, [1] * 6), "up to 2 dimensions, got 6 items"),
        (lambda: fn.pad(x, [-2, -2]), r"cuts 4 elements off dimension 1 of \(2, 3\)"),
        (lambda: fn.pad(x, [1, 1], "reflect"), "mode='constant' only"),
    ]:
        with pytest.raises(GraphError, match=text):
            call()


@covered(dims=[[0], [-1], [0, 2], [2, 1, 0], []], shapes=[None, ALL_VARY])
def test_flip(run_rounded, dims, shapes):
    got = run_rounded(lambda x: fn.flip(x, dims), X, shapes=shapes)
    np.testing.assert_array_equal(got, np.flip(X, dims) if dims else X)


@covered(pad=[[1, 2], [0, 1, 2, 0], [1, 1, 0, 0, 2, 3], [-1, 2], [2, -3, -1, 0]], value=[None, -1.5])
def test_pad(run_rounded, pad, value):
    expected = torch.nn.functional.pad(torch.tensor(X), pad, value=value)
    for shapes in (None, ALL_VARY):
        got = run_rounded(lambda x: fn.pad(x, pad, value=value), X, shapes=shapes)
        np.testing.assert_array_equal(got, expected)
    margins = np.array(pad, np.int32)
    got = run_rounded(lambda x: fn.pad(x, fn.constant(margins), value=value), X, shapes=ALL_VARY)
    np.testing.assert_array_equal(got, expected)


def test_pad_of_an_empty_tensor(run_rounded):
    x = np.zeros((0, 3), np.float32)
    got = run_rounded(lambda x: fn.pad(x, [0, 0, 1, 1], value=2.0), x, shapes=[(-1, 3)])
    np.testing.assert_array_equal(got, np.full((2, 3), 2.0))


@pytest.mark.parametrize(
    "expression, sizes, expected",
    [
        ("b s h -> s b h", {}, X.transpose(1, 0, 2)),
        ("b s (h d) -> b h s d", {"h": 2}, X.reshape(2, 3, 2, 2).transpose(0, 2, 1, 3)),
        ("b s (h d) -> (b h) (d s)", {"d": 2}, X.reshape(2, 3, 2, 2).transpose(0, 2, 3, 1).reshape(4, 6)),
        ("b s h -> (b s h)", {}, X.reshape(-1)),
        ("b s h -> b 1 s (h) 1", {}, X.reshape(2, 1, 3, 4, 1)),
        ("a b c -> a b c", {}, X),
        ("(a a2) b c -> a2 a b c", {"a": 1, "a2": 2}, X.reshape(2, 1, 3, 4)),
    ],
)
def test_rearrange(run_rounded, expression, sizes, expected):
    for shapes in (None, [(-1, 3, 4)], ALL_VARY):
        got = run_rounded(lambda x: fn.rearrange(x, expression, **sizes), X, shapes=shapes)
        np.testing.assert_array_equal(got, expected)


def test_rearrange_of_several(run_rounded):
    got = run_rounded(lambda x, y: fn.rearrange([x, y], "n b 1 -> b (1 n)"), *[X[:, 0, :1], X[:, 1, :1]])
    np.testing.assert_array_equal(got, X[:, :2, 0])


@pytest.mark.parametrize(
    "expression, sizes, text",
    [
        ("a b", {}, "has no '->'"),
        ("a b -> a c", {}, "once on each side"),
        ("a a -> a a", {}, "once on each side"),
        ("a b -> b", {}, "once on each side"),
        ("(a b -> a b", {}, "parentheses"),
        ("a b) -> a b", {}, "parentheses"),
        ("a ... -> ... a", {}, r"holds '\.\.\.\s+'|holds '\.\.\.'"),
        ("a 2 -> a 2", {}, "has the number 2"),
        ("a b -> a b", {"c": 3}, "has no axis 'c'"),
        ("a b c -> a b c", {}, "has 3 dimensions on the left"),
        ("(a c) b -> a c b", {}, "the sizes of a and c are not known"),
        ("(a c) b -> a c b", {"a": 4}, "is not made of the sizes"),
        ("a b -> a b", {"a": 3}, "is not made of the sizes"),
    ],
)
def test_rearrange_errors(guarded, expression, sizes, text):
    x = guarded[1]("x", "float32", [2, 3])
    with pytest.raises(GraphError, match=text):
        fn.rearrange(x, expression, **sizes)
