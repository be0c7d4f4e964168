"""Reductions, softmax, norms and matrix products against numpy in float64."""

import ml_dtypes
import numpy as np
import pytest

from trtllm_ext.errors import GraphError
from trtllm_ext.graph import functional as fn
from trtllm_ext.graph.naming import layer_kind

BUDGET_S = 15

RNG = np.random.default_rng(11)
X = RNG.normal(size=(3, 5, 8)).astype(np.float32)
W, B = RNG.normal(size=8).astype(np.float32), RNG.normal(size=8).astype(np.float32)
NARROW = [(np.float16, 4e-3), (ml_dtypes.bfloat16, 3e-2)]


@pytest.mark.parametrize("name", ["mean", "sum", "max", "min", "prod"])
@pytest.mark.parametrize("dim, keepdim", [(0, False), (-1, True), ((0, 2), False), ([1, -1], True)])
def test_reduce(run, name, dim, keepdim):
    axes = dim if isinstance(dim, int) else tuple(dim)
    got = run(lambda x: getattr(fn, name)(x, dim, keepdim), X, shapes=[(-1, 5, 8)])
    np.testing.assert_allclose(
        got, getattr(np, name)(X.astype(np.float64), axes, keepdims=keepdim), rtol=1e-5, atol=1e-6
    )


def test_integer_reductions_are_exact(run):
    x = np.array([[2**24 + 1, 2], [3, 4]], np.int32)
    total, largest = run(lambda x: (fn.sum(x, 1), fn.max(x, 0)), x)
    np.testing.assert_array_equal(total, x.sum(1))
    np.testing.assert_array_equal(largest, x.max(0))


def test_reduce_errors(guarded):
    _, add_input = guarded
    x = add_input("x", "float32", [2, 3])
    with pytest.raises(GraphError, match="dimension 2 is out of range"):
        fn.sum(x, 2)
    with pytest.raises(GraphError, match="name one twice"):
        fn.sum(x, (1, -1))


@pytest.mark.parametrize("dim", [None, 0, -2])
def test_softmax(run, dim):
    axis = -1 if dim is None else dim
    e = np.exp(X.astype(np.float64) - X.max(axis, keepdims=True))
    np.testing.assert_allclose(
        run(lambda x: fn.softmax(x, dim), X), e / e.sum(axis, keepdims=True), rtol=1e-5, atol=1e-7
    )


def layer_norm(x, axes, eps):
    x = x.astype(np.float64)
    centred = x - x.mean(axes, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axes, keepdims=True) + eps)


def rms_norm(x, eps, axes=-1):
    x = x.astype(np.float64)
    return x / np.sqrt((x**2).mean(axes, keepdims=True) + eps)


@pytest.mark.parametrize("shape", [(3, 5, 8), (-1, -1, 8)])
def test_layer_norm(run, shape):
    got = run(lambda x: fn.layer_norm(x, 8, fn.constant(W), fn.constant(B), 1e-3), X, shapes=[shape])
    np.testing.assert_allclose(got, layer_norm(X, -1, 1e-3) * W + B, rtol=1e-5, atol=1e-6)


def test_layer_norm_over_two_dimensions_and_defaults(run):
    plain, scaled = run(lambda x: (fn.layer_norm(x, (5, 8)), fn.layer_norm(x, [8], 2.0, 0.5)), X)
    np.testing.assert_allclose(plain, layer_norm(X, (1, 2), 1e-5), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scaled, layer_norm(X, -1, 1e-5) * 2 + 0.5, rtol=1e-5, atol=1e-6)


def test_layer_norm_is_one_layer_beside_its_constants(guarded):
    network, add_input = guarded
    fn.layer_norm(add_input("x", "float32", [-1, -1, 8]), 8, fn.constant(W), fn.constant(B))
    assert {layer_kind(layer) for layer in network.get_layers()} == {"CONSTANT", "NORMALIZATION"}


@pytest.mark.parametrize("dtype, rtol", NARROW)
def test_norms_in_narrow_types(run, dtype, rtol):
    x, w, b = X.astype(dtype), W.astype(dtype), B.astype(dtype)
    ln, rms = run(
        lambda x: (
            fn.layer_norm(x, 8, fn.constant(w), fn.constant(b)),
            fn.rms_norm(x, 8, weight=fn.constant(w)),
        ),
        x,
    )
    assert ln.dtype == rms.dtype == dtype
    x, w, b = (each.astype(np.float64) for each in (x, w, b))
    np.testing.assert_allclose(ln.astype(np.float64), layer_norm(x, -1, 1e-5) * w + b, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(rms.astype(np.float64), rms_norm(x, 1e-6) * w, rtol=rtol, atol=rtol)


def test_rms_norm(run):
    weighted, plain = run(
        lambda x: (fn.rms_norm(x, 8, weight=fn.constant(W), eps=1e-2), fn.rms_norm(x, (5, 8))), X
    )
    np.testing.assert_allclose(weighted, rms_norm(X, 1e-2) * W, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(plain, rms_norm(X, 1e-6, (1, 2)), rtol=1e-5, atol=1e-6)


def test_rms_norm_rounds_before_the_weight(run_rounded):
    x, w = X.astype(np.float16), W.astype(np.float16)
    got = run_rounded(lambda x: fn.rms_norm(x, 8, weight=fn.constant(w)), x)
    normed = rms_norm(x, 1e-6).astype(np.float16)
    want = (normed.astype(np.float32) * w.astype(np.float32)).astype(np.float16)
    # One unit in the last place of the normed value, where float32 and float64 round apart.
    np.testing.assert_allclose(got.astype(np.float32), want.astype(np.float32), rtol=1.1e-3)
    assert (got == want).mean() > 0.95


def test_rms_norm_in_groups(run):
    got = run(lambda x: fn.rms_norm(x, 8, num_groups=2, weight=fn.constant(W)), X, shapes=[(-1, 5, 8)])
    want = rms_norm(X.reshape(3, 5, 2, 4), 1e-6).reshape(3, 5, 8) * W
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_norm_errors(guarded):
    _, add_input = guarded
    x = add_input("x", "float32", [-1, 8])
    with pytest.raises(
        GraphError, match=r"normalized_shape \(7,\) is not the end of the input's shape \(-1, 8\)"
    ):
        fn.layer_norm(x, 7)
    with pytest.raises(
        GraphError, match=r"weight has the shape \(4,\); the normalised dimensions are \(8,\)"
    ):
        fn.rms_norm(x, 8, weight=add_input("w", "float32", [4]))
    with pytest.raises(GraphError, match="different types, float32 and float16"):
        fn.layer_norm(x, 8, add_input("h", "float16", [8]))
    with pytest.raises(GraphError, match="8 does not split into num_groups=3"):
        fn.rms_norm(x, 8, num_groups=3)
    with pytest.raises(GraphError, match=r"num_groups=2 splits one axis; normalized_shape \(4, 8\) has 2"):
        fn.rms_norm(add_input("y", "float32", [-1, 4, 8]), (4, 8), num_groups=2)


M = RNG.normal(size=(4, 8)).astype(np.float32)


@pytest.mark.parametrize("shape", [(3, 5, 8), (-1, -1, 8)])
def test_matmul_by_a_weight(run, shape):
    got = run(lambda x: fn.matmul(x, fn.constant(M), transb=True), X, shapes=[shape])
    np.testing.assert_allclose(got, X.astype(np.float64) @ M.T, rtol=1e-5, atol=1e-5)


def test_matmul_transposed_and_batched(run):
    a, b = X, RNG.normal(size=(1, 5, 6)).astype(np.float32)
    np.testing.assert_allclose(
        run(lambda a, b: fn.matmul(a, b, transa=True), a, b, shapes=[(-1, -1, 8), (1, -1, 6)]),
        a.swapaxes(1, 2).astype(np.float64) @ b, rtol=1e-5, atol=1e-5,
    )  # fmt: skip


@pytest.mark.parametrize("dtype, rtol", NARROW)
def test_matmul_in_narrow_types(run, dtype, rtol):
    x, m = X.astype(dtype), M.astype(dtype)
    got = run(lambda x: fn.matmul(x, fn.constant(m), transb=True), x)
    assert got.dtype == dtype
    want = x.astype(np.float64) @ m.astype(np.float64).T
    np.testing.assert_allclose(got.astype(np.float64), want, rtol=rtol, atol=rtol)


def test_half_products_are_cast_to_float32_only_on_request(guarded):
    network, add_input = guarded
    x = add_input("x", "float16", [2, 8])
    fn.matmul(x, fn.constant(M.astype(np.float16)), transb=True, use_fp32_acc=False)
    assert "CAST" not in [layer_kind(layer) for layer in network.get_layers()]
    assert fn.matmul(x, fn.constant(M.astype(np.float16)), transb=True).dtype == x.dtype
    assert [layer_kind(layer) for layer in network.get_layers()].count("CAST") == 3


def test_matmul_errors(guarded):
    _, add_input = guarded
    with pytest.raises(
        GraphError,
        match=r"matmul_L\d+: add_matrix_multiply refuses float32 \(2, 3\).*summed dimensions differ",
    ):
        fn.matmul(add_input("x", "float32", [2, 3]), add_input("y", "float32", [4, 5]))
    with pytest.raises(GraphError, match="mat2 is a ndarray"):
        fn.matmul(add_input("z", "float32", [2, 3]), np.zeros((3, 2)))
