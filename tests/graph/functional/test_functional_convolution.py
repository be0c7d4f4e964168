"""Convolutions, pooling, resizing, Einstein sums, group norm against torch."""

import ml_dtypes
import numpy as np
import pytest
import torch
import torch.nn.functional as tf
from sampling import covered

from trtllm_ext.errors import GraphError
from trtllm_ext.graph import functional as fn

BUDGET_S = 8

RNG = np.random.default_rng(13)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def close(got, expected, tolerance=1e-5):
    assert got.shape == tuple(expected.shape)
    np.testing.assert_allclose(
        got.astype(np.float64), expected.double().numpy(), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize(
    "sizes, settings",
    [
        ((2, 4, 9, 8), {}),
        ((1, 4, 9, 8), {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)}),
        ((1, 4, 7, 7), {"groups": 2, "padding": 1}),
        ((4, 6, 5), {"padding": (1, 0)}),
    ],
)
def test_conv2d(run_rounded, constant, sizes, settings):
    x, w, b = normal(*sizes), normal(6, 4 // settings.get("groups", 1), 3, 2), normal(6)
    expected = tf.conv2d(*map(torch.tensor, (x, w, b)), **settings)
    if constant:
        got = run_rounded(lambda x: fn.conv2d(x, fn.constant(w), fn.constant(b), **settings), x)
    else:
        got = run_rounded(lambda x, w, b: fn.conv2d(x, w, b, **settings), x, w, b)
    close(got, expected)


def test_conv2d_of_sizes_that_vary_and_own_margins(run_rounded):
    x, w = normal(2, 3, 6, 7), normal(5, 3, 2, 2)
    got = run_rounded(
        lambda x: fn.conv2d(x, fn.constant(w), pre_padding=(1, 0), post_padding=(0, 2)),
        x,
        shapes=[(-1, 3, -1, -1)],
    )
    close(got, tf.conv2d(tf.pad(torch.tensor(x), (0, 2, 1, 0)), torch.tensor(w)))


@pytest.mark.parametrize("dtype, tolerance", [(np.float16, 1e-2), (ml_dtypes.bfloat16, 6e-2)])
def test_narrow_types(run_rounded, dtype, tolerance):
    x, w, b = (each.astype(dtype) for each in (normal(1, 3, 5, 5), normal(2, 3, 3, 3), normal(2)))
    got = run_rounded(lambda x: fn.conv2d(x, fn.constant(w), fn.constant(b)), x)
    assert got.dtype == dtype
    close(got, tf.conv2d(*(torch.tensor(each.astype(np.float32)) for each in (x, w, b))), tolerance)


@covered(last=[(), (1,)], constant=[True, False])
def test_conv1d(run_rounded, last, constant):
    x, w, b = normal(2, 4, 11), normal(6, 2, 3), normal(6)
    settings = {"stride": 2, "padding": 1, "dilation": 2, "groups": 2}
    expected = tf.conv1d(*map(torch.tensor, (x, w, b)), **settings)
    stored = w.reshape(*w.shape, *last)
    if constant:
        got = run_rounded(lambda x: fn.conv1d(x, fn.constant(stored), fn.constant(b), **settings), x)
    else:
        got = run_rounded(lambda x, w, b: fn.conv1d(x, w, b, **settings), x, stored, b)
    close(got, expected)


def test_conv3d(run_rounded):
    x, w, b = normal(2, 3, 4, 5, 6), normal(4, 3, 2, 3, 1), normal(4)
    got = run_rounded(lambda x: fn.conv3d(x, fn.constant(w), fn.constant(b), 1, (1, 0, 2), 2), x)
    close(got, tf.conv3d(*map(torch.tensor, (x, w, b)), 1, (1, 0, 2), 2))
    alone = run_rounded(lambda x: fn.conv3d(x, fn.constant(w)), x[0])
    close(alone, tf.conv3d(torch.tensor(x[:1]), torch.tensor(w)))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"stride": (2, 3), "padding": (1, 0)},
        {"stride": 2, "padding": 1, "output_padding": (1, 0)},
        {"dilation": (2, 1), "padding": (1, 1)},
        {"groups": 2},
    ],
)
def test_conv_transpose2d(run_rounded, settings):
    x, w = normal(2, 4, 4, 5), normal(4, 6 // settings.get("groups", 1), 3, 3)
    b = normal(6)
    expected = tf.conv_transpose2d(*map(torch.tensor, (x, w, b)), **settings)
    close(
        run_rounded(lambda x: fn.conv_transpose2d(x, fn.constant(w), fn.constant(b), **settings), x), expected
    )
    close(
        run_rounded(lambda x: fn.conv_transpose2d(x, fn.constant(w), fn.constant(b), **settings), x[0]),
        expected[0],
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": (2, 2)},
        {"kernel_size": 3, "stride": (2, 1)},
        {"kernel_size": (3, 3), "padding": (1, 1)},
        {"kernel_size": (3, 3), "padding": (1, 0), "count_include_pad": False},
        {"kernel_size": (3, 3), "stride": (2, 2), "ceil_mode": True, "count_include_pad": False},
    ],
)
def test_avg_pool2d(run_rounded, settings):
    x = normal(2, 3, 8, 8)
    expected = tf.avg_pool2d(torch.tensor(x), **settings)
    close(run_rounded(lambda x: fn.avg_pool2d(x, **settings), x), expected)
    close(run_rounded(lambda x: fn.avg_pool2d(x, **settings), x[0]), expected[0])


def test_convolution_errors(guarded):
    _, add_input = guarded
    x, w = add_input("x", "float32", [1, 3, 5, 5]), add_input("w", "float32", [4, 3, 2, 2])
    half, v = add_input("h", "float16", [4, 3, 2, 2]), add_input("v", "float32", [3])
    for call, text in [
        (lambda: fn.conv2d(v, w), "conv2d takes an input of 4 dimensions"),
        (lambda: fn.conv2d(x, half), "different types, float32 and float16"),
        (lambda: fn.conv2d(x, w, v), r"bias has the shape \(3,\); the convolution has 4 outputs"),
        (lambda: fn.conv2d(x, w, stride=(1, 1, 1)), "takes 2 numbers"),
        (lambda: fn.conv1d(x, w), "conv1d takes input"),
        (lambda: fn.conv3d(x, w), "conv3d takes an input of 5 dimensions"),
        (lambda: fn.conv2d(x, add_input("d", "float32", [4, -1, 2, 2])), "weight of known shape"),
        (lambda: fn.conv_transpose2d(x, w, output_padding=1), "more than padding"),
        (lambda: fn.avg_pool2d(v, 2), "avg_pool2d takes"),
        (lambda: fn.conv2d(x, fn.constant(np.ones((4, 2, 2, 2), np.float32))), "refuses|does not work out"),
    ]:
        with pytest.raises(GraphError, match=text):
            call()


@pytest.mark.parametrize(
    "shape, settings",
    [
        ((2, 3, 5), {"size": 8}),
        ((2, 3, 5), {"size": [7], "mode": "linear"}),
        ((2, 3, 5), {"scale_factor": 2.0, "mode": "linear", "align_corners": True}),
        ((2, 3, 4, 6), {"size": (6, 3)}),
        ((2, 3, 4, 6), {"scale_factor": (1.5, 0.5), "mode": "nearest-exact"}),
        ((2, 3, 4, 6), {"size": (7, 9), "mode": "bilinear"}),
        ((2, 3, 4, 6), {"scale_factor": 2, "mode": "bicubic"}),
        ((1, 2, 3, 4, 5), {"size": (5, 6, 7), "mode": "trilinear"}),
        ((1, 2, 3, 4, 5), {"size": (5, 6, 7), "mode": "trilinear", "align_corners": True}),
        ((1, 2, 3, 4, 5), {"scale_factor": 2.0}),
    ],
)
def test_interpolate(run_rounded, shape, settings):
    x = normal(*shape)
    expected = tf.interpolate(torch.tensor(x), **settings, recompute_scale_factor=None)
    close(run_rounded(lambda x: fn.interpolate(x, **settings), x), expected, 1e-4)
    varying = [(-1, *shape[1:])]
    close(run_rounded(lambda x: fn.interpolate(x, **settings), x, shapes=varying), expected, 1e-4)


def test_corners_are_not_aligned_in_two_dimensions(run_rounded):
    x = normal(1, 2, 4, 6)
    for mode in ("bilinear", "bicubic"):
        got = run_rounded(lambda x, mode=mode: fn.interpolate(x, (7, 9), mode=mode, align_corners=True), x)
        close(got, tf.interpolate(torch.tensor(x), (7, 9), mode=mode), 1e-4)


def test_interpolate_errors(guarded):
    _, add_input = guarded
    x = add_input("x", "float32", [1, 3, 4, 4])
    for call, text in [
        (lambda: fn.interpolate(x), "size or scale_factor"),
        (lambda: fn.interpolate(x, 2, 2.0), "size or scale_factor"),
        (lambda: fn.interpolate(x, 2, mode="linear"), "takes 3 dimensions"),
        (lambda: fn.interpolate(x, 2, mode="area"), "does not know mode='area'"),
        (lambda: fn.interpolate(x, [2, 2, 2]), "takes 2 sizes"),
        (lambda: fn.interpolate(x, scale_factor=0.1), "sizes are 1 or more"),
        (lambda: fn.interpolate(x, 2, antialias=True), "antialias=True is not available"),
        (lambda: fn.interpolate(add_input("y", "float32", [1, 3, -1, 4]), 2), "of known size"),
    ]:
        with pytest.raises(GraphError, match=text):
            call()


@pytest.mark.parametrize(
    "dtype, tolerance", [(np.float32, 1e-5), (np.float16, 1e-2), (ml_dtypes.bfloat16, 6e-2)]
)
def test_einsum(run_rounded, dtype, tolerance):
    a, b = normal(2, 3, 4).astype(dtype), normal(4, 5).astype(dtype)
    wide = [torch.tensor(each.astype(np.float32)) for each in (a, b)]
    for equation in ("bik,kj->bij", "bik,kj->j", "bik,kj"):
        got = run_rounded(
            lambda a, b, equation=equation: fn.einsum(equation, [a, b]), a, b, shapes=[(-1, -1, 4), (4, -1)]
        )
        assert got.dtype == dtype
        close(got, torch.einsum(equation, wide), tolerance)
    x, y = a[0, 0], b[0]
    close(
        run_rounded(fn.outer, x, y),
        torch.outer(*(torch.tensor(each.astype(np.float32)) for each in (x, y))),
        tolerance,
    )


def test_einsum_errors(guarded):
    _, add_input = guarded
    x, half = add_input("x", "float32", [2, 3]), add_input("h", "float16", [3, 2])
    for call, text in [
        (lambda: fn.einsum("ij,jk->ik", []), "empty list"),
        (lambda: fn.einsum("ij,jk->ik", [x, half]), "different types"),
        (lambda: fn.einsum("ij,ij->i", [x]), "refuses|does not work out"),
        (lambda: fn.outer(x, x), "refuses|does not work out"),
    ]:
        with pytest.raises(GraphError, match=text):
            call()


@pytest.mark.parametrize(
    "shape, groups",
    [((2, 6), 1), ((2, 6), 3), ((2, 6, 5), 1), ((2, 6, 5), 6), ((3, 6, 4, 5), 3), ((3, 6, 4, 5), 6)],
)
def test_group_norm(run_rounded, shape, groups):
    x, w, b = normal(*shape), normal(6), normal(6)
    expected = tf.group_norm(torch.tensor(x), groups, torch.tensor(w), torch.tensor(b), 1e-3)
    for shapes in (None, [(-1, 6, *(-1 for _ in shape[2:]))]):
        got = run_rounded(
            lambda x: fn.group_norm(x, groups, fn.constant(w), fn.constant(b), 1e-3), x, shapes=shapes
        )
        close(got, expected, 1e-4)
    close(run_rounded(lambda x: fn.group_norm(x, groups), x), tf.group_norm(torch.tensor(x), groups), 1e-4)


def test_group_norm_errors(guarded):
    _, add_input = guarded
    x, v = add_input("x", "float32", [2, 6, 3]), add_input("v", "float32", [3])
    with pytest.raises(GraphError, match="num_groups=4"):
        fn.group_norm(x, 4)
    with pytest.raises(GraphError, match=r"weight has the shape \(3,\); there are 6 channels"):
        fn.group_norm(x, 2, v)
    with pytest.raises(GraphError, match="splits the channels"):
        fn.group_norm(add_input("y", "float32", [2, -1, 3]), 2)


@pytest.mark.parametrize("dim", [0, -1])
def test_log_softmax(run, dim):
    x = normal(3, 5) * 50
    close(
        run(lambda x: fn.log_softmax(x, dim), x, shapes=[(-1, -1)]),
        tf.log_softmax(torch.tensor(x).double(), dim),
        1e-4,
    )
