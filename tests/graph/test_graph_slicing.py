"""Slices and splits against numpy, with sizes that vary."""

import numpy as np
import pytest

import trtllm_ext.embedded as trt
from trtllm_ext.errors import GraphError
from trtllm_ext.graph import functional as fn
from trtllm_ext.graph.naming import layer_kind

BUDGET_S = 12

X = np.arange(48, dtype=np.float32).reshape(2, 4, 6)
SHAPES = [(2, 4, 6), (-1, 4, 6), (2, -1, 6), (-1, -1, 6)]


def test_static_slice(run):
    np.testing.assert_array_equal(run(lambda x: fn.slice(x, [0, 1, 2], [2, 2, 3]), X), X[:, 1:3, 2:5])
    np.testing.assert_array_equal(
        run(lambda x: fn.slice(x, [1, 3, 0], [1, 4, 3], [1, -1, 2]), X), X[1:2, ::-1, 0::2]
    )


def test_slice_by_tensors(run):
    got = run(
        lambda x, s, n: (fn.slice(x, s, n), fn.slice(x, [0, 0, 0], [fn.shape(x, 0), 1, 6])),
        X, np.array([0, 1, 2], np.int64), np.array([2, 2, 3], np.int64), shapes=[(-1, 4, 6), (3,), (3,)],
    )  # fmt: skip
    np.testing.assert_array_equal(got[1], X[:, :1])


def test_slice_with_fill(run):
    got = run(lambda x: fn.slice(x, [0, 3, 0], [2, 2, 6], mode=trt.SampleMode.FILL, fill_value=-1.0), X)
    np.testing.assert_array_equal(got, np.concatenate([X[:, 3:], -np.ones((2, 1, 6), np.float32)], 1))


def test_slice_errors(guarded):
    _, add_input = guarded
    x = add_input("x", "float32", [2, 4, 6])
    with pytest.raises(
        GraphError, match=r"slice: sizes has 2 items for an input of 3 dimensions, \(2, 4, 6\)"
    ):
        fn.slice(x, [0, 0, 0], [1, 1])
    with pytest.raises(
        GraphError, match=r"dimension 1 of \(2, 4, 6\) takes 4 elements from 1, 1 apart, which reaches"
    ):
        fn.slice(x, [0, 1, 0], [2, 4, 6])
    with pytest.raises(GraphError, match=r"a fill_value needs mode=SampleMode\.FILL"):
        fn.slice(x, [0, 0, 0], [2, 4, 6], fill_value=0.0)
    with pytest.raises(GraphError, match="starts is float32; it takes int32 or int64"):
        fn.slice(x, add_input("s", "float32", [3]), [1, 1, 1])


@pytest.mark.parametrize("shape", SHAPES)
def test_split_by_size_and_by_sections(run, shape):
    got = run(lambda x: [*fn.split(x, 2, dim=2), *fn.split(x, [1, 3, 2], dim=-1)], X, shapes=[shape])
    want = [X[..., 0:2], X[..., 2:4], X[..., 4:6], X[..., 0:1], X[..., 1:4], X[..., 4:6]]
    assert len(got) == len(want)
    for one, other in zip(got, want, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("shape", SHAPES)
def test_chunk_and_unbind(run, shape):
    got = run(lambda x: [*fn.chunk(x, 3, dim=-1), *fn.unbind(x, 2)], X, shapes=[shape])
    for one, other in zip(got, [*np.split(X, 3, -1), *np.moveaxis(X, 2, 0)], strict=True):
        np.testing.assert_array_equal(one, other)


def test_split_keeps_known_sizes(guarded):
    network, add_input = guarded
    x = add_input("x", "float32", [-1, 5, -1, 6])
    first, second = fn.chunk(x, 2, dim=-1)
    assert first.shape == second.shape == (-1, 5, -1, 3)
    kinds = [layer_kind(layer) for layer in network.get_layers()]
    assert kinds.count("SHAPE") == 1 and kinds.count("CONCATENATION") == 1


def test_split_errors(guarded):
    _, add_input = guarded
    x = add_input("x", "float32", [-1, 4, 6])
    with pytest.raises(
        GraphError, match=r"split needs a dimension of known size; dimension 0 of \(-1, 4, 6\) varies"
    ):
        fn.split(x, 1, 0)
    with pytest.raises(GraphError, match="dimension 1 of size 4 does not split into parts of 3"):
        fn.split(x, 3, 1)
    with pytest.raises(GraphError, match=r"the sections \[1, 2\] make up 3, dimension 1 has the size 4"):
        fn.split(x, [1, 2], 1)
    with pytest.raises(GraphError, match=r"dimension 2 of \(-1, 4, 6\) does not split into 4 equal parts"):
        fn.chunk(x, 4, -1)
    with pytest.raises(GraphError, match="unbind needs a dimension of known size"):
        fn.unbind(x, 0)
