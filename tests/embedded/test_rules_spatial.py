"""Convolution, pooling, padding, scale, parametric ReLU and resize: shapes, attributes, and what is refused."""

import numpy as np
import pytest
from defining import add_constant, add_input, errors_of, new_network, shape_of

import trtllm_ext.embedded as trt

BUDGET_S = 3
MODES = trt.PaddingMode


def floats(count, dtype=np.float32):
    return np.zeros(count, dtype)


def conv(
    network, shape, maps, size, kernel, bias=None, *, kind="convolution", dtype=trt.float32, **attributes
):
    """The output's shape of a (de)convolution with `kernel` zeros, or the words it is refused with."""
    layer = getattr(network, f"add_{kind}_nd")(add_input(network, shape, dtype), maps, size, kernel, bias)
    return outcome(network, layer, attributes)


def outcome(network, layer, attributes=()):
    if layer is None:
        return errors_of(network)[-1]
    for name, value in dict(attributes).items():
        setattr(layer, name, value)
    known = layer.get_output(0)._known()
    return layer._node.error if known is None else known.shape


def check(found, expected):
    if isinstance(expected, str):
        assert isinstance(found, str) and expected in found, found
    else:
        assert found == expected


@pytest.mark.parametrize(
    ("length", "size", "stride", "dilation", "pre", "post", "mode", "expected"),
    [
        (7, 3, 1, 1, 0, 0, MODES.EXPLICIT_ROUND_DOWN, 5),
        (8, 3, 2, 1, 0, 0, MODES.EXPLICIT_ROUND_DOWN, 3),
        (8, 3, 2, 1, 0, 0, MODES.EXPLICIT_ROUND_UP, 4),
        (6, 3, 2, 1, 3, 2, MODES.EXPLICIT_ROUND_DOWN, 5),
        (6, 3, 2, 1, 3, 2, MODES.EXPLICIT_ROUND_UP, 5),
        (6, 3, 2, 1, 3, 2, MODES.SAME_UPPER, 3),
        (7, 3, 2, 1, 0, 0, MODES.SAME_LOWER, 4),
        (7, 3, 1, 2, 1, 1, MODES.EXPLICIT_ROUND_DOWN, 5),
        (3, 3, 1, 2, 0, 0, MODES.EXPLICIT_ROUND_DOWN, "a window that spans 5 does not fit dimension 2"),
        (-1, 3, 1, 2, 0, 0, MODES.EXPLICIT_ROUND_DOWN, -1),
    ],
)
def test_lengths_of_convolution(length, size, stride, dilation, pre, post, mode, expected):
    found = conv(
        new_network(),
        (-1, 2, length, 1),
        4,
        (size, 1),
        floats(8 * size),
        stride_nd=(stride, 1),
        dilation_nd=(dilation, 1),
        pre_padding=(pre, 0),
        post_padding=(post, 0),
        padding_mode=mode,
    )
    check(found, expected if isinstance(expected, str) else (-1, 4, expected, 1))


@pytest.mark.parametrize(
    ("length", "size", "stride", "pre", "post", "mode", "expected"),
    [
        (4, 3, 1, 0, 0, MODES.EXPLICIT_ROUND_DOWN, 6),
        (4, 3, 2, 1, 0, MODES.EXPLICIT_ROUND_UP, 8),
        (4, 3, 2, 1, 1, MODES.SAME_UPPER, 8),
        (4, 1, 3, 0, 0, MODES.SAME_LOWER, 10),
        (1, 2, 1, 1, 1, MODES.EXPLICIT_ROUND_DOWN, "padding of 1 and 1 leaves nothing of dimension 2"),
        (0, 2, 1, 0, 0, MODES.EXPLICIT_ROUND_DOWN, "dimension 2 is empty"),
        (-1, 3, 2, 0, 0, MODES.EXPLICIT_ROUND_DOWN, -1),
    ],
)
def test_lengths_of_deconvolution(length, size, stride, pre, post, mode, expected):
    found = conv(
        new_network(),
        (3, 2, length, 1),
        4,
        (size, 1),
        floats(8 * size),
        kind="deconvolution",
        stride_nd=(stride, 1),
        pre_padding=(pre, 0),
        post_padding=(post, 0),
        padding_mode=mode,
    )
    check(found, expected if isinstance(expected, str) else (3, 4, expected, 1))


@pytest.mark.parametrize(
    ("shape", "size", "kernel", "attributes", "expected"),
    [
        ((1, 4, 5, 5), (3, 3), floats(72), {"num_groups": 4}, (1, 8, 3, 3)),
        ((1, 4, 5, 5), (3, 3), floats(288), {"num_groups": 3}, "3 groups must divide the 4 channels"),
        ((1, 4, 5, 5), (3, 3), floats(288), {"num_groups": 0}, "0 groups must divide"),
        (
            (1, 4, 5, 5),
            (3, 3),
            floats(287),
            {},
            "the kernel of shape (8, 4, 3, 3) must have 288 weights, not 287",
        ),
        ((1, 4, 5, 5), (3, 3), floats(288, np.float16), {}, "is HALF where the input is FLOAT"),
        ((1, 4, 5, 5), (3, 3), trt.Weights(), {}, "there is no kernel: give weights of shape (8, 4, 3, 3)"),
        ((1, 4, 5, 5), (3, 3), floats(288), {"stride_nd": (1,)}, "stride_nd (1,) must have 2 elements"),
        ((1, 4, 5, 5), (3, 3), floats(288), {"stride_nd": (1, 0)}, "stride_nd (1, 0) has an element below 1"),
        (
            (1, 4, 5, 5),
            (3, 3),
            floats(288),
            {"padding_nd": (-1, 0)},
            "pre_padding (-1, 0) has an element below 0",
        ),
        (
            (1, 4, 5, 5),
            (3, 3),
            floats(288),
            {"bias": floats(4)},
            "the bias of shape (8,) must have 8 weights, not 4",
        ),
        ((1, -1, 5, 5), (3, 3), floats(288), {}, "the channels, dimension 1, of a convolution must be known"),
        (
            (1, 0, 5, 5),
            (3, 3),
            floats(0),
            {},
            "at least one channel, dimension 1, but the input is (1, 0, 5, 5)",
        ),
        ((1, 4, 5), (3,), floats(96), {}, "goes over 2 or 3 dimensions, not 1"),
        (
            (4, 5, 5),
            (3, 3),
            floats(288),
            {},
            "takes an input of shape (batch, channels, 2 lengths), not (4, 5, 5)",
        ),
        ((1, 4, 5, 5), (3, 3, 3), floats(864), {}, "over 3 dimensions takes an input of shape"),
    ],
)
def test_what_a_convolution_takes(shape, size, kernel, attributes, expected):
    check(conv(new_network(), shape, 8, size, kernel, **attributes), expected)


def test_a_convolution_of_integers():
    assert "does not take INT32" in conv(new_network(), (1, 4, 5, 5), 8, (3, 3), floats(288), dtype=trt.int32)


def test_kernel_and_bias_as_tensors():
    network = new_network()
    x = add_input(network, (1, 4, 5, 5))
    layer = network.add_convolution_nd(x, 8, (3, 3), trt.Weights())
    assert layer.num_inputs == 1 and len(layer.kernel) == len(layer.bias) == 0
    layer.set_input(1, add_input(network, (8, 4, 3, 3)))
    layer.set_input(2, add_input(network, (8,)))
    assert layer.num_inputs == 3 and shape_of(layer.get_output(0)) == (1, 8, 3, 3)
    layer.kernel = floats(288)
    assert "the kernel is both weights and input 1" in outcome(network, layer)
    layer.kernel = trt.Weights()
    layer.set_input(1, add_input(network, (8, 4, 3, 2)))
    assert "the kernel (input 1) must have shape (8, 4, 3, 3), not (8, 4, 3, 2)" in outcome(network, layer)
    layer.set_input(1, add_input(network, (8, 4, 3, 3), trt.float16))
    assert "incompatible input types FLOAT and HALF" in outcome(network, layer)


def test_attributes_of_a_convolution():
    network = new_network()
    kernel = np.arange(72, dtype=np.float32).reshape(2, 4, 3, 3)
    layer = network.add_convolution_nd(
        input=add_input(network, (1, 4, 5, 5)), num_output_maps=2, kernel_shape=(3, 3), kernel=kernel
    )
    assert layer.type == trt.LayerType.CONVOLUTION and layer.num_output_maps == 2 and layer.num_groups == 1
    assert tuple(layer.kernel_size_nd) == (3, 3)
    assert tuple(layer.stride_nd) == tuple(layer.dilation_nd) == (1, 1)
    assert layer.padding_mode == MODES.EXPLICIT_ROUND_DOWN
    layer.padding_nd = (1, 2)
    assert tuple(layer.pre_padding) == tuple(layer.post_padding) == (1, 2)
    layer.post_padding = (0, 0)
    assert tuple(layer.padding_nd) == (1, 2) and tuple(layer.post_padding) == (0, 0)
    np.testing.assert_array_equal(layer.kernel, kernel.reshape(-1))
    assert layer.kernel.ctypes.data == kernel.ctypes.data
    with pytest.raises(TypeError):
        layer.num_groups = 1.5


def pool(network, shape, size, kind=trt.PoolingType.MAX, dtype=trt.float32, **attributes):
    return outcome(network, network.add_pooling_nd(add_input(network, shape, dtype), kind, size), attributes)


@pytest.mark.parametrize(
    ("shape", "size", "attributes", "expected"),
    [
        ((2, -1, 6, 6), (3, 2), {"stride_nd": (3, 2)}, (2, -1, 2, 3)),
        ((2, 3, 6, -1), (3, 2), {"padding_nd": (1, 1)}, (2, 3, 6, -1)),
        ((2, 3, 8, 8), (3, 3), {"stride_nd": (2, 2), "padding_mode": MODES.EXPLICIT_ROUND_UP}, (2, 3, 4, 4)),
        ((2, 3, 7, 7), (3, 3), {"stride_nd": (2, 2), "padding_mode": MODES.SAME_UPPER}, (2, 3, 4, 4)),
        ((2, 3, 4, 5, 6), (1, 2, 3), {}, (2, 3, 4, 4, 4)),
        ((2, 3, 6, 6), (2, 2), {"padding_nd": (2, 0)}, "a window of 2 would see padding only"),
        ((2, 3, -1, 6), (2, 2), {"padding_nd": (2, 0)}, "a window of 2 would see padding only"),
        ((2, 3, 6, 6), (2, 2), {"post_padding": (3, 0)}, "a window of 2 would see padding only"),
        ((2, 3, 0, 6), (2, 2), {"padding_nd": (1, 0)}, "a window of 2 would see padding only"),
        ((2, 3, 2, 6), (3, 2), {}, "a window that spans 3 does not fit dimension 2"),
        ((2, 3, 6), (3, 2), {}, "over 2 dimensions takes an input of shape"),
    ],
)
def test_pooling(shape, size, attributes, expected):
    check(pool(new_network(), shape, size, **attributes), expected)


def test_attributes_of_a_pooling():
    network = new_network()
    layer = network.add_pooling_nd(add_input(network, (1, 1, 4, 4)), trt.PoolingType.AVERAGE, (2, 2))
    assert layer.type == trt.PoolingType.AVERAGE and layer.blend_factor == 0
    assert layer.average_count_excludes_padding is True
    assert network.get_layer(0).type == trt.LayerType.POOLING
    plain = network.get_layer(0)
    plain.__class__ = trt.IPoolingLayer
    assert plain.type == trt.PoolingType.AVERAGE and tuple(plain.window_size_nd) == (2, 2)
    assert network.get_layer(0).type == trt.LayerType.POOLING
    layer.type = trt.PoolingType.MAX_AVERAGE_BLEND
    assert "blend_factor must be from 0 to 1, not 1.5" in outcome(network, layer, {"blend_factor": 1.5})


@pytest.mark.parametrize(
    ("shape", "pre", "post", "expected"),
    [
        ((1, -1, 3, -1), (1, 2), (0, -1), (1, -1, 4, -1)),
        ((1, 1, 3, 3), (-2, 0), (-1, 0), (1, 1, 0, 3)),
        ((1, 1, 3, 3), (-2, 0), (-2, 0), "cuts more than there is off dimension 2, which is 3 long"),
        ((1, 1, 3, 3), (-4, 0), (2, 0), "cuts more than there is off dimension 2"),
        ((1, 3, 3), (1, 1), (1, 1), "takes an input of at least 4 dimensions"),
        ((1, 1, 3, 3), (1,), (1, 1), "a padding is of 2 dimensions"),
    ],
)
def test_padding(shape, pre, post, expected):
    network = new_network()
    check(outcome(network, network.add_padding_nd(add_input(network, shape), pre, post)), expected)


@pytest.mark.parametrize(
    ("shape", "mode", "count", "axis", "expected"),
    [
        ((-1, 3, 2, 4), "UNIFORM", 1, 0, (-1, 3, 2, 4)),
        ((-1, 3, 2, 4), "CHANNEL", 2, 2, (-1, 3, 2, 4)),
        ((-1, 3, 2, 4), "ELEMENTWISE", 8, 2, (-1, 3, 2, 4)),
        (
            (-1, 3, 2, 4),
            "CHANNEL",
            3,
            2,
            "scale in mode CHANNEL for an input of shape (-1, 3, 2, 4) must have 2",
        ),
        ((-1, 3, 2, 4), "ELEMENTWISE", 8, 0, "the lengths that scale has weights for must be known"),
        ((-1, 3, 2, 4), "CHANNEL", 3, 4, "channel_axis 4 is out of range"),
        ((3, 2, 4), "UNIFORM", 1, 0, "takes an input of 4 or 5 dimensions, not (3, 2, 4)"),
    ],
)
def test_scale(shape, mode, count, axis, expected):
    network = new_network()
    layer = network.add_scale_nd(
        add_input(network, shape), getattr(trt.ScaleMode, mode), scale=floats(count), channel_axis=axis
    )
    check(outcome(network, layer), expected)


def test_add_scale_finds_the_channels():
    network = new_network()
    with pytest.raises(TypeError):
        network.add_scale_nd(add_input(network, (2, 3, 4, 5)), trt.ScaleMode.UNIFORM)
    four, five = add_input(network, (2, 3, 4, 5)), add_input(network, (2, 3, 4, 5, 6))
    assert network.add_scale(four, trt.ScaleMode.CHANNEL, shift=floats(3)).channel_axis == 1
    assert network.add_scale(five, trt.ScaleMode.CHANNEL, shift=floats(4)).channel_axis == 2


@pytest.mark.parametrize(
    ("shape", "slopes", "expected"),
    [
        ((2, 3, 4), (1, 3, 1), (2, 3, 4)),
        ((-1, 3, 4), (2, 1, 1), (2, 3, 4)),
        ((-1, 3), (-1, 1), (-1, 3)),
        ((2, 3), (2, 4), "slopes of shape (2, 4) do not broadcast to an input of shape (2, 3)"),
        ((1, 3), (2, 3), "do not broadcast"),
        ((2, 3), (3,), "do not broadcast"),
    ],
)
def test_parametric_relu(shape, slopes, expected):
    network = new_network()
    layer = network.add_parametric_relu(add_input(network, shape), add_input(network, slopes))
    check(outcome(network, layer), expected)


LINEAR, CUBIC = trt.InterpolationMode.LINEAR, trt.InterpolationMode.CUBIC


@pytest.mark.parametrize(
    ("shape", "attributes", "expected"),
    [
        ((2, 3, 4, 5), {"shape": (2, 3, 8, 1)}, (2, 3, 8, 1)),
        ((2, -1, 4, -1), {"scales": (1, 1, 2, 0.5)}, (2, -1, 8, -1)),
        ((2, 3, 4, 5), {"scales": (1, 1, 0.7, 1.3)}, (2, 3, 2, 6)),
        ((2, -1, 4), {"shape": (3, 5, 4)}, (3, 5, 4)),
        ((2, 3), {}, "set shape, scales or input 1"),
        ((2, 3), {"shape": (2,)}, "cannot be resized to 1 dimensions"),
        ((2, 3), {"shape": (2, -1)}, "shape (2, -1) has a negative length"),
        ((2, 3), {"scales": (1,)}, "takes 2 scales, not 1"),
        ((2, 3), {"scales": (1, 0)}, "scale 0.0 of dimension 1 must be a positive number"),
        ((2, 3), {"scales": (1, float("inf"))}, "must be a positive number"),
        ((2, 3), {"scales": (1, 1e30)}, "dimension 1 would be"),
        ((2, 0), {"shape": (2, 1)}, "dimension 1 is empty"),
        ((2, 3, 4, 5), {"shape": (3, 3, 4, 5), "resize_mode": LINEAR}, "resizes the last 3 dimensions only"),
        ((2, 3, 4, 5), {"shape": (2, 5, 4, 5), "resize_mode": CUBIC}, "resizes the last 2 dimensions only"),
    ],
)
def test_resize(shape, attributes, expected):
    network = new_network()
    check(outcome(network, network.add_resize(add_input(network, shape)), attributes), expected)


def test_resize_by_a_tensor():
    network = new_network()
    x, other = add_input(network, (2, -1, 4)), add_input(network, (-1, 3))
    layer = network.add_resize(x)
    lengths = network.add_concatenation([add_constant(network, [2]), network.add_shape(other).get_output(0)])
    lengths.axis = 0
    layer.set_input(1, lengths.get_output(0))
    assert shape_of(layer.get_output(0)) == (2, -1, 3)
    assert lengths.get_output(0).is_shape_tensor
    layer.resize_mode = CUBIC
    layer.shape = (2, 2, 2)
    assert "shape cannot be set: input 1 decides the lengths" in errors_of(network)[-1]
    assert shape_of(layer.get_output(0)) == (2, -1, 3)
    layer.set_input(1, add_constant(network, [3, 1, 3]))
    assert "dimension 0 of a tensor of shape (2, -1, 4) cannot become 3" in outcome(network, layer)
    layer.set_input(1, add_constant(network, [2, -1, 3]))
    assert "a length is negative" in outcome(network, layer)


def test_attributes_of_a_resize():
    layer = new_network()
    layer = layer.add_resize(add_input(layer, (2, 3)))
    assert layer.resize_mode == trt.InterpolationMode.NEAREST and layer.cubic_coeff == -0.75
    assert layer.coordinate_transformation == trt.ResizeCoordinateTransformation.ASYMMETRIC
    assert layer.nearest_rounding == trt.ResizeRoundMode.FLOOR and layer.exclude_outside is False
    assert layer.selector_for_single_pixel == trt.ResizeSelector.FORMULA
    assert layer.scales == []
    layer.scales = (1, 2)
    assert layer.scales == [1.0, 2.0] and shape_of(layer.get_output(0)) == (2, 6)
    layer.shape = (2, 5)
    assert layer.scales == [] and tuple(layer.shape) == shape_of(layer.get_output(0)) == (2, 5)
