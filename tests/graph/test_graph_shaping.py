"""Views, permutations, new and dropped dimensions, expansion: values, and no shape subgraph where none is needed."""

import numpy as np
import pytest
from sampling import covered

from trtllm_ext.errors import GraphError
from trtllm_ext.graph import functional as fn
from trtllm_ext.graph.naming import layer_kind

BUDGET_S = 15

X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
DYNAMIC = [(2, 3, 4), (-1, 3, 4), (-1, -1, 4), (-1, -1, -1)]


def kinds(network):
    return [layer_kind(layer) for layer in network.get_layers()]


@pytest.mark.parametrize("shape", DYNAMIC)
def test_view(run, shape):
    np.testing.assert_array_equal(run(lambda x: fn.view(x, [0, -1]), X, shapes=[shape]), X.reshape(2, 12))
    np.testing.assert_array_equal(
        run(lambda x: fn.view(x, fn.concat([fn.shape(x, 1), fn.shape(x, 0), 4])), X, shapes=[shape]),
        X.reshape(3, 2, 4),
    )
    np.testing.assert_array_equal(
        run(lambda x: x.view([fn.shape(x, 0) * 3, 4]), X, shapes=[shape]), X.reshape(6, 4)
    )


def test_view_to_rank_zero_and_back(run):
    x = np.array([5.0], np.float32)
    scalar, back = run(lambda x: (fn.view(x, []), fn.view(fn.view(x, []), [1, 1])), x)
    assert scalar.shape == () and scalar == 5
    assert back.shape == (1, 1)


def test_view_errors(guarded):
    _, add_input = guarded
    x = add_input("x", "float32", [2, 3, 4])
    with pytest.raises(GraphError, match=r"\(-1, -1\) leaves more than one size"):
        fn.view(x, [-1, -1])
    with pytest.raises(
        GraphError,
        match=r"SHUFFLE_\d+ does not work out for the inputs float32 \(2, 3, 4\): .*cannot be reshaped",
    ):
        fn.view(x, [5, 5])
    with pytest.raises(GraphError, match="shape is float32; it takes int32 or int64"):
        fn.view(x, add_input("s", "float32", [2]))


@pytest.mark.parametrize("shape", DYNAMIC)
@pytest.mark.parametrize(
    "start, end, want", [(0, -1, (24,)), (1, 2, (2, 12)), (0, 1, (6, 4)), (1, 1, (2, 3, 4))]
)
def test_flatten(run, shape, start, end, want):
    np.testing.assert_array_equal(
        run(lambda x: fn.flatten(x, start, end), X, shapes=[shape]), X.reshape(want)
    )


def test_flatten_of_a_scalar_and_of_reversed_dims(guarded, run):
    assert run(fn.flatten, np.array(3.0, np.float32)).shape == (1,)
    _, add_input = guarded
    with pytest.raises(GraphError, match="start_dim 2 comes after end_dim 0"):
        fn.flatten(add_input("x", "float32", [2, 3, 4]), 2, 0)


def test_permute_and_transpose(run):
    np.testing.assert_array_equal(run(lambda x: fn.permute(x, [2, 0, -2]), X), X.transpose(2, 0, 1))
    np.testing.assert_array_equal(
        run(lambda x: fn.transpose(x, 0, -1), X, shapes=[(-1, -1, 4)]), X.swapaxes(0, 2)
    )


def test_permute_errors(guarded):
    _, add_input = guarded
    x = add_input("x", "float32", [2, 3])
    with pytest.raises(GraphError, match="name one twice"):
        fn.permute(x, [0, 0])
    with pytest.raises(GraphError, match=r"permute names the dimensions \(0,\), the input has 2"):
        fn.permute(x, [0])
    with pytest.raises(GraphError, match=r"dimension 2 is out of range for 2 dimensions \(-2 to 1\)"):
        fn.transpose(x, 0, 2)


@covered(shape=DYNAMIC, dim=[0, 1, -1, (0, 1), (1, 3), (0, 2, 4)])
def test_expand_dims(run, shape, dim):
    np.testing.assert_array_equal(
        run(lambda x: fn.expand_dims(x, dim), X, shapes=[shape]), np.expand_dims(X, dim)
    )


@pytest.mark.parametrize("shape", [(1, 3, 1, 4), (1, -1, 1, 4), (1, -1, 1, -1), (-1, -1, -1, -1)])
def test_squeeze(run, shape):
    x = np.arange(12, dtype=np.float32).reshape(1, 3, 1, 4)
    np.testing.assert_array_equal(run(lambda x: fn.squeeze(x, 0), x, shapes=[shape]), x[0])
    np.testing.assert_array_equal(run(lambda x: fn.squeeze(x, [0, -2]), x, shapes=[shape]), x[0, :, 0])
    if shape[0] == 1:
        np.testing.assert_array_equal(run(fn.squeeze, x, shapes=[shape]), x[0, :, 0])


def test_squeeze_of_a_longer_dimension(guarded):
    _, add_input = guarded
    with pytest.raises(
        GraphError, match=r"squeeze drops dimension 1 of the shape \(1, 3\), which is not of size 1"
    ):
        fn.squeeze(add_input("x", "float32", [1, 3]), 1)


def test_reshapes_need_no_shape_subgraph(guarded):
    network, add_input = guarded
    x = add_input("x", "float32", [-1, -1, 64])
    fn.squeeze(fn.unsqueeze(x, 0), 0)
    fn.squeeze(fn.unsqueeze(x, 1), 1)
    fn.expand_dims(x, [1, 2])
    fn.view(x, [0, 0, 8, 8])
    fn.flatten(x, 0, 1)
    x + fn.constant(np.zeros(64, np.float32))
    assert set(kinds(network)) == {"SHUFFLE", "ELEMENTWISE", "CONSTANT"}
    assert kinds(network).count("SHUFFLE") == 7


@pytest.mark.parametrize("shape", [(2, 1, 4), (-1, 1, 4), (-1, -1, -1)])
def test_expand(run, shape):
    x = np.arange(8, dtype=np.float32).reshape(2, 1, 4)
    want = np.broadcast_to(x, (2, 5, 4))
    np.testing.assert_array_equal(run(lambda x: fn.expand(x, [2, 5, 4]), x, shapes=[shape]), want)
    np.testing.assert_array_equal(
        run(lambda x: fn.expand(x, fn.concat([fn.shape(x, 0), 5, fn.shape(x, 2)])), x, shapes=[shape]), want
    )
    np.testing.assert_array_equal(
        run(lambda x: fn.expand(x, [fn.shape(x, 0), 5, fn.shape(x, 2)]), x, shapes=[shape]), want
    )


def test_expand_needs_the_same_rank(guarded):
    _, add_input = guarded
    with pytest.raises(GraphError, match=r"expand gives 3 sizes for the shape \(2, 4\); unsqueeze"):
        fn.expand(add_input("x", "float32", [2, 4]), [1, 2, 4])


def test_expand_dims_like(run):
    x = np.arange(4, dtype=np.float32)
    got = run(
        lambda a, b: (fn.expand_dims_like(a, b), fn.expand_dims_like(2.5, b), b),
        x,
        X,
        shapes=[(-1,), (-1, 3, 4)],
    )
    assert got[0].shape == (1, 1, 4)
    assert got[1].shape == (1, 1, 1) and got[1].item() == 2.5


@pytest.mark.parametrize("shape", [(2, 3), (-1, -1)])
def test_expand_mask(run, shape):
    mask = np.array([[1, 1, 0], [1, 0, 0]], np.int32)
    got = run(fn.expand_mask, mask, shapes=[shape])
    want = np.where(np.broadcast_to(mask[:, None, None, :], (2, 1, 3, 3)) == 0, -np.inf, 0.0)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("shape", DYNAMIC)
def test_shape(run, shape):
    whole, one, cast = run(
        lambda x: (fn.shape(x), fn.shape(x, -1), fn.shape(x, 0, cast_to_dtype="int32", clip_before_cast=[0, 1])),
        X, shapes=[shape],
    )  # fmt: skip
    np.testing.assert_array_equal(whole, [2, 3, 4])
    assert whole.dtype == np.int64
    assert one.shape == () and one == 4
    assert cast.dtype == np.int32 and cast == 1


def test_shape_is_asked_once_per_tensor(guarded):
    network, add_input = guarded
    x = add_input("x", "float32", [-1, -1])
    fn.shape(x), fn.shape(x, 0), fn.shape(x, 1)
    assert kinds(network).count("SHAPE") == 1


def test_zero_rows(run):
    x = np.zeros((0, 6), np.float32)
    shapes = [(-1, 6)]
    assert run(lambda x: fn.view(x, [0, 2, 3]), x, shapes=shapes).shape == (0, 2, 3)
    assert run(lambda x: fn.unsqueeze(x, 0), x, shapes=shapes).shape == (1, 0, 6)
    assert run(lambda x: fn.view(fn.unsqueeze(x, 0), [0, 0, 3, 2]), x, shapes=shapes).shape == (1, 0, 3, 2)
