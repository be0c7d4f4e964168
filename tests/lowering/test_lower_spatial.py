"""Convolution, deconvolution, pooling, padding, scale and parametric ReLU against torch."""

import math

import numpy as np
import pytest
import torch
from lowered_net import FLOATS, NUMPY, Net, same_bits
from sampling import covered
from torch.nn import functional as F  # noqa: N812

import trtllm_ext.embedded as trt

BUDGET_S = 6


def whole(type_name, shape, seed=0):
    """Small integers: sums of their products are exact in float32, and what is rounded is the result, once."""
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(NUMPY[type_name])


def as_torch(array):
    return torch.from_numpy(np.asarray(array, np.float64))


def rounded(tensor, type_name):
    """An exact result in the type, rounded once."""
    return tensor.numpy().astype(np.float32).astype(NUMPY[type_name])


def weights(net, array):
    net.alive.append(array)
    name = {dtype: name for name, dtype in NUMPY.items()}[array.dtype]
    return trt.Weights(getattr(trt.DataType, name), array.ctypes.data, array.size)


CONVOLUTIONS = {
    # input, kernel, torch's arguments
    "plain": ((2, 4, 7, 6), (6, 4, 3, 2), {}),
    "everything": (
        (2, 4, 9, 8),
        (6, 2, 2, 3),
        {"stride": (2, 1), "padding": (1, 2), "dilation": (3, 2), "groups": 2},
    ),
    "depthwise": ((1, 6, 5, 5), (6, 1, 3, 3), {"groups": 6, "padding": (1, 1)}),
    "three": ((2, 2, 4, 5, 3), (3, 2, 2, 3, 1), {"stride": (1, 2, 1), "padding": (1, 0, 1)}),
    "no batch": ((0, 4, 7, 6), (6, 4, 3, 2), {}),
    "one by one": ((2, 4, 3, 3), (5, 4, 1, 1), {}),
}


def with_kernel(net, kind, type_name, shape, kernel, maps, arguments, *, from_inputs):
    """A (de)convolution layer in torch's arguments; kernel and bias are the layer's own, or network inputs."""
    bias = whole(type_name, (maps,), 2)
    x = net.input("x", type_name, shape)
    add = getattr(net.network, f"add_{kind}_nd")
    if from_inputs:
        layer = add(x, maps, kernel.shape[2:], trt.Weights())
        layer.set_input(1, net.input("w", type_name, kernel.shape))
        layer.set_input(2, net.input("b", type_name, (maps,)))
    else:
        layer = add(x, maps, kernel.shape[2:], weights(net, kernel), weights(net, bias))
    for torch_name, name in (("stride", "stride_nd"), ("padding", "padding_nd"), ("dilation", "dilation_nd")):
        if torch_name in arguments:
            setattr(layer, name, arguments[torch_name])
    layer.num_groups = arguments.get("groups", 1)
    net.mark(layer.get_output(0))
    return bias


@pytest.mark.parametrize("from_inputs", [False, True], ids=["weights", "inputs"])
@pytest.mark.parametrize("type_name", FLOATS)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution(name, type_name, from_inputs):
    shape, kernel_shape, arguments = CONVOLUTIONS[name]
    a, kernel = whole(type_name, shape), whole(type_name, kernel_shape, 1)
    net = Net()
    declared = (-1, shape[1], *(-1 for _ in shape[2:]))
    bias = with_kernel(
        net, "convolution", type_name, declared, kernel, kernel_shape[0], arguments, from_inputs=from_inputs
    )
    feeds = {"x": a} | ({"w": kernel, "b": bias} if from_inputs else {})
    function = F.conv3d if len(shape) == 5 else F.conv2d
    expected = function(as_torch(a), as_torch(kernel), as_torch(bias), **arguments)
    same_bits(net.run(feeds)["y"], rounded(expected, type_name))


def test_convolution_in_one_dimension():
    """As TensorRT-LLM writes it: another dimension of length 1, with stride and dilation 2 there."""
    a, kernel = whole("FLOAT", (2, 3, 11)), whole("FLOAT", (4, 3, 3, 1), 1)
    net = Net()
    image = net.op("shuffle", net.input("x", "FLOAT", (2, 3, 11)), reshape_dims=(2, 3, 11, 1))
    layer = net.network.add_convolution_nd(image, 4, (3, 1), kernel, None)
    layer.stride_nd, layer.padding_nd, layer.dilation_nd = (2, 2), (1, 0), (2, 2)
    net.mark(layer.get_output(0))
    expected = F.conv1d(as_torch(a), as_torch(kernel[..., 0]), stride=2, padding=1, dilation=2)
    same_bits(net.run({"x": a})["y"][..., 0], rounded(expected, "FLOAT"))


DECONVOLUTIONS = {
    "plain": ((2, 4, 5, 3), (4, 6, 3, 2), {}),
    "everything": (
        (2, 4, 5, 3),
        (4, 3, 2, 3),
        {"stride": (3, 2), "padding": (1, 2), "dilation": (2, 3), "groups": 2},
    ),
    "three": ((1, 2, 2, 3, 2), (2, 3, 2, 3, 2), {"stride": (2, 1, 2), "padding": (0, 1, 1)}),
    "no batch": ((0, 4, 5, 3), (4, 6, 3, 2), {}),
}


@pytest.mark.parametrize("from_inputs", [False, True], ids=["weights", "inputs"])
@pytest.mark.parametrize("type_name", FLOATS)
@pytest.mark.parametrize("name", DECONVOLUTIONS)
def test_deconvolution(name, type_name, from_inputs):
    shape, kernel_shape, arguments = DECONVOLUTIONS[name]
    a, kernel = whole(type_name, shape), whole(type_name, kernel_shape, 1)
    maps = kernel_shape[1] * arguments.get("groups", 1)
    net = Net()
    declared = (-1, shape[1], *(-1 for _ in shape[2:]))
    bias = with_kernel(
        net, "deconvolution", type_name, declared, kernel, maps, arguments, from_inputs=from_inputs
    )
    feeds = {"x": a} | ({"w": kernel, "b": bias} if from_inputs else {})
    function = F.conv_transpose3d if len(shape) == 5 else F.conv_transpose2d
    if 0 in shape:
        assert net.run(feeds)["y"].shape == (0, 6, 7, 4)
        return
    expected = function(as_torch(a), as_torch(kernel), as_torch(bias), **arguments)
    same_bits(net.run(feeds)["y"], rounded(expected, type_name))


@pytest.mark.parametrize("type_name", FLOATS)
def test_large_kernels_stay_outside_the_model(type_name):
    """They are borrowed, too: what they are when the network is lowered counts."""
    a, kernel = whole(type_name, (1, 32, 4, 4)), np.zeros((128, 32, 3, 3), NUMPY[type_name])
    net = Net()
    layer = net.network.add_convolution_nd(
        net.input("x", type_name, a.shape), 128, (3, 3), weights(net, kernel)
    )
    net.mark(layer.get_output(0))
    kernel[...] = whole(type_name, kernel.shape, 1)
    (weight,) = net.segment().weights
    assert weight.shape == kernel.shape
    assert weight.data.ctypes.data == kernel.ctypes.data
    expected = F.conv2d(as_torch(a), as_torch(kernel))
    same_bits(net.run({"x": a})["y"], rounded(expected, type_name))


def test_weights_in_another_type_of_a_weakly_typed_network():
    a, kernel = whole("FLOAT", (1, 2, 4, 4)), whole("HALF", (3, 2, 2, 2), 1)
    net = Net(strongly_typed=False)
    net.mark(net.op("convolution_nd", net.input("x", "FLOAT", a.shape), 3, (2, 2), kernel))
    same_bits(net.run({"x": a})["y"], rounded(F.conv2d(as_torch(a), as_torch(kernel)), "FLOAT"))


POOLINGS = {
    "plain": ((2, 3, 7, 8), (2, 3), {}),
    "padded": ((2, 3, 7, 8), (3, 4), {"stride": (2, 1), "padding": (1, 2)}),
    "three": ((2, 3, 4, 5, 6), (2, 3, 2), {"stride": (2, 1, 2), "padding": (1, 1, 0)}),
    "rounded up": ((2, 3, 8, 9), (3, 2), {"stride": (2, 3), "padding": (1, 0), "ceil_mode": True}),
    "no batch": ((0, 3, 7, 8), (2, 3), {}),
}


def pooled(net, kind, type_name, shape, size, arguments, **attributes):
    x = net.input("x", type_name, (-1, *shape[1:2], *(-1 for _ in shape[2:])))
    layer = net.network.add_pooling_nd(x, getattr(trt.PoolingType, kind), size)
    layer.stride_nd = arguments.get("stride", (1,) * len(size))
    layer.padding_nd = arguments.get("padding", (0,) * len(size))
    if arguments.get("ceil_mode"):
        layer.padding_mode = trt.PaddingMode.EXPLICIT_ROUND_UP
    for name, value in attributes.items():
        setattr(layer, name, value)
    net.mark(layer.get_output(0))


@covered(type_name=FLOATS, name=POOLINGS)
def test_maximum(name, type_name):
    shape, size, arguments = POOLINGS[name]
    a = np.random.default_rng(0).standard_normal(shape).astype(NUMPY[type_name])
    net = Net()
    pooled(net, "MAX", type_name, shape, size, arguments)
    function = F.max_pool3d if len(size) == 3 else F.max_pool2d
    expected = function(as_torch(a), size, **({"stride": 1} | arguments))
    same_bits(net.run({"x": a})["y"], rounded(expected, type_name))


@covered(counts_padding=[False, True], type_name=FLOATS, name=POOLINGS)
def test_average(name, type_name, counts_padding):
    shape, size, arguments = POOLINGS[name]
    a = whole(type_name, shape)
    net = Net()
    attributes = {"average_count_excludes_padding": not counts_padding}
    pooled(net, "AVERAGE", type_name, shape, size, arguments, **attributes)
    function = F.avg_pool3d if len(size) == 3 else F.avg_pool2d
    # To torch, what a window hangs over the padding never counts; on TensorRT it does.
    divisor = {"divisor_override": math.prod(size)} if counts_padding else {"count_include_pad": False}
    expected = function(as_torch(a), size, **divisor, **({"stride": 1} | arguments))
    got = net.run({"x": a})["y"].astype(np.float64)
    unit = {"FLOAT": 1e-6, "HALF": 2**-11, "BF16": 2**-8}[type_name]
    np.testing.assert_allclose(got, expected.numpy(), rtol=1.01 * unit, atol=1e-6)


def test_blend_of_maximum_and_average():
    a = whole("FLOAT", (2, 3, 6, 6))
    net = Net()
    pooled(net, "MAX_AVERAGE_BLEND", "FLOAT", a.shape, (2, 2), {}, blend_factor=0.25)
    expected = 0.75 * F.max_pool2d(as_torch(a), 2, 1) + 0.25 * F.avg_pool2d(as_torch(a), 2, 1)
    np.testing.assert_allclose(net.run({"x": a})["y"], expected.numpy(), rtol=1e-6)


@pytest.mark.parametrize("type_name", [*FLOATS, "INT32", "INT64"])
def test_padding_adds_zeros_and_cuts_off(type_name):
    a = whole(type_name, (1, 1, 3, 5))
    net = Net()
    net.mark(net.op("padding_nd", net.input("x", type_name, (1, 1, -1, -1)), (-1, 3), (3, -2)))
    same_bits(net.run({"x": a})["y"], np.pad(a[:, :, 1:, :3], ((0, 0), (0, 0), (0, 3), (3, 0))))


@pytest.mark.parametrize("type_name", FLOATS)
def test_parametric_relu(type_name):
    a, slopes = whole(type_name, (2, 3, 4)), whole(type_name, (3,), 1)
    net = Net()
    x = net.input("x", type_name, (-1, 3, 4))
    net.mark(net.op("parametric_relu", x, net.constant(slopes.reshape(1, 3, 1))))
    expected = F.prelu(as_torch(a), as_torch(slopes))
    same_bits(net.run({"x": a})["y"], rounded(expected, type_name))


def test_scale():
    """TensorRT's own example for five dimensions: a number for each channel, on axis 1."""
    a = np.arange(2 * 9, dtype=np.float32).reshape(1, 2, 1, 3, 3)
    scale, shift, power = (np.array(pair, np.float32) for pair in ((1, 2), (3, 1), (2, 1)))
    net = Net()
    x = net.input("x", "FLOAT", a.shape)
    net.mark(net.op("scale_nd", x, trt.ScaleMode.CHANNEL, shift, scale, power, 1))
    wide = [one.reshape(1, 2, 1, 1, 1) for one in (scale, shift, power)]
    np.testing.assert_allclose(net.run({"x": a})["y"], (a * wide[0] + wide[1]) ** wide[2], rtol=1e-6)
