"""What the oracle says of spatial layers, against torch, TensorRT's documented examples, and plain sums."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

BUDGET_S = 4


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def as_torch(array):
    return torch.from_numpy(array.astype(np.float64))


def test_convolution(oracle):
    x, kernel, bias = normal(2, 4, 9, 8), normal(6, 2, 3, 2, seed=1), normal(6, seed=2)

    def define(network, x):
        layer = network.add_convolution_nd(x, 6, (3, 2), kernel, bias)
        layer.stride_nd, layer.padding_nd, layer.dilation_nd, layer.num_groups = (2, 1), (1, 2), (2, 3), 2
        return layer.get_output(0)

    arguments = {"stride": (2, 1), "padding": (1, 2), "dilation": (2, 3), "groups": 2}
    want = F.conv2d(as_torch(x), as_torch(kernel), as_torch(bias), **arguments)
    np.testing.assert_allclose(oracle(define, x), want.numpy(), atol=1e-12)


def test_deconvolution(oracle):
    x, kernel, bias = normal(2, 4, 3, 5), normal(4, 3, 3, 2, seed=1), normal(6, seed=2)

    def define(network, x):
        layer = network.add_deconvolution_nd(x, 6, (3, 2), kernel, bias)
        layer.stride_nd, layer.padding_nd, layer.dilation_nd, layer.num_groups = (2, 3), (1, 2), (2, 3), 2
        return layer.get_output(0)

    arguments = {"stride": (2, 3), "padding": (1, 2), "dilation": (2, 3), "groups": 2}
    want = F.conv_transpose2d(as_torch(x), as_torch(kernel), as_torch(bias), **arguments)
    np.testing.assert_allclose(oracle(define, x), want.numpy(), atol=1e-12)


@pytest.mark.parametrize(
    ("mode", "maxima", "means", "all_means"),
    [
        # Six elements, a window of three, a stride of two: the documentation's example, and what lies where.
        ("EXPLICIT_ROUND_DOWN", [2, 4], [1, 3], [1, 3]),
        ("EXPLICIT_ROUND_UP", [2, 4, 5], [1, 3, 4.5], [1, 3, 3]),
        ("SAME_UPPER", [2, 4, 5], [1, 3, 4.5], [1, 3, 3]),
        ("SAME_LOWER", [1, 3, 5], [0.5, 2, 4], [1 / 3, 2, 4]),
    ],
)
def test_where_the_windows_of_a_pooling_lie(oracle, trt, mode, maxima, means, all_means):
    x = np.arange(6, dtype=np.float32).reshape(1, 1, 6, 1)

    def pooled(kind, *, excludes=True):
        def define(network, x):
            layer = network.add_pooling_nd(x, getattr(trt.PoolingType, kind), (3, 1))
            layer.stride_nd, layer.padding_mode = (2, 1), getattr(trt.PaddingMode, mode)
            layer.average_count_excludes_padding = excludes
            return layer.get_output(0)

        return oracle(define, x).reshape(-1)

    np.testing.assert_allclose(pooled("MAX"), maxima)
    np.testing.assert_allclose(pooled("AVERAGE"), means)
    np.testing.assert_allclose(pooled("AVERAGE", excludes=False), all_means)


@pytest.mark.parametrize(
    ("mode", "want"), [("SAME_UPPER", [1, 2, 3, 4, 5, 6]), ("SAME_LOWER", [0, 1, 2, 3, 4, 5])]
)
def test_where_the_kernel_of_a_convolution_lies(oracle, trt, mode, want):
    """Of the three elements that a kernel of four needs beyond the input, the odd one is behind it, or before."""
    x = np.arange(1, 7, dtype=np.float32).reshape(1, 1, 6, 1)

    def define(network, x):
        layer = network.add_convolution_nd(x, 1, (4, 1), np.array([0, 1, 0, 0], np.float32))
        layer.padding_mode = getattr(trt.PaddingMode, mode)
        return layer.get_output(0)

    np.testing.assert_array_equal(oracle(define, x).reshape(-1), want)


def test_padding_as_documented(oracle):
    """The example of TensorRT's operator reference."""
    x = np.array([[-3, -2, -1, 10, -25], [-4, -9, -1, 10, -25], [0, 1, 2, -2, -1]], np.float32)
    got = oracle(lambda network, x: network.add_padding_nd(x, (-1, 3), (3, -2)).get_output(0), x[None, None])
    want = np.zeros((5, 6))
    want[0, 3:], want[1, 3:] = [-4, -9, -1], [0, 1, 2]
    np.testing.assert_array_equal(got[0, 0], want)


def test_scale_as_documented(oracle, trt):
    x = np.arange(1, 10, dtype=np.float32).reshape(1, 1, 3, 3)
    two, one = np.array([2], np.float32), np.array([1], np.float32)
    got = oracle(
        lambda network, x: network.add_scale(x, trt.ScaleMode.UNIFORM, one, two, two).get_output(0), x
    )
    np.testing.assert_array_equal(got, (2.0 * x + 1) ** 2)


@pytest.mark.parametrize(("mode", "name"), [("LINEAR", "bilinear"), ("CUBIC", "bicubic")])
@pytest.mark.parametrize("corners", [False, True])
def test_resize(oracle, trt, mode, name, corners):
    x = normal(2, 3, 5, 6)

    def define(network, x):
        layer = network.add_resize(x)
        layer.shape, layer.resize_mode = (2, 3, 8, 4), getattr(trt.InterpolationMode, mode)
        where = trt.ResizeCoordinateTransformation
        layer.coordinate_transformation = where.ALIGN_CORNERS if corners else where.HALF_PIXEL
        return layer.get_output(0)

    want = F.interpolate(as_torch(x), size=(8, 4), mode=name, align_corners=corners).numpy()
    np.testing.assert_allclose(oracle(define, x), want, atol=1e-12)


@pytest.mark.parametrize("equation", ["ij,jk->ik", "ij,kj", "ij,kl->l", "ji,jk->"])
def test_einsum(oracle, equation):
    a, b = normal(3, 3), normal(3, 3, seed=1)
    got = oracle(lambda network, *inputs: network.add_einsum(inputs, equation).get_output(0), a, b)
    np.testing.assert_allclose(
        got, np.einsum(equation, a.astype(np.float64), b.astype(np.float64)), atol=1e-12
    )
