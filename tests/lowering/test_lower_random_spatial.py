"""Random convolutions, deconvolutions, poolings and resizes: the engine's graph against the oracle, or both refuse."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from lowered_net import Net
from sampling import examples

import trtllm_ext.embedded as trt
from trtllm_ext.oracle import evaluate

BUDGET_S = 8
SETTINGS = settings(max_examples=examples(80), deadline=None)
PADDING = list(trt.PaddingMode.__members__.values())


def numbers(shape, seed):
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(np.float32)


def agree(net, layer, a, declared):
    """Both give the same for the input, or it is refused: by the rules, when the lengths are those of the input."""
    x = net.network.get_input(0)
    x.shape = a.shape
    if layer.get_output(0)._known() is None:
        return
    expected_shape = tuple(layer.get_output(0).shape)
    net.mark(layer.get_output(0))
    want = evaluate(net.network, trt, {"x": a})["y"]
    assert want.shape == expected_shape
    x.shape = declared
    got = net.run({"x": a})["y"]
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def per_axis(low, high, rank=2):
    return st.tuples(*[st.integers(low, high)] * rank)


@st.composite
def windows(draw, most_padding=3):
    """Attributes of a window, by TensorRT's names."""
    return {
        "stride_nd": draw(per_axis(1, 3)),
        "pre_padding": draw(per_axis(0, most_padding)),
        "post_padding": draw(per_axis(0, most_padding)),
        "padding_mode": draw(st.sampled_from(PADDING)),
    }


@SETTINGS
@given(
    kind=st.sampled_from(["convolution", "deconvolution"]),
    lengths=per_axis(0, 7),
    batch=st.integers(0, 2),
    size=per_axis(1, 3),
    dilation=per_axis(1, 3),
    groups=st.sampled_from([1, 2]),
    window=windows(),
    is_dynamic=st.booleans(),
    seed=st.integers(0, 9),
)
def test_kernels(kind, lengths, batch, size, dilation, groups, window, is_dynamic, seed):
    a = numbers((batch, 2, *lengths), seed)
    net = Net()
    declared = (-1, 2, -1, -1) if is_dynamic else a.shape
    kernel = numbers((8 // groups * size[0] * size[1],), seed + 1)
    add = getattr(net.network, f"add_{kind}_nd")
    layer = add(net.input("x", "FLOAT", declared), 4, size, kernel, numbers((4,), seed + 2))
    for name, value in (window | {"dilation_nd": dilation, "num_groups": groups}).items():
        setattr(layer, name, value)
    agree(net, layer, a, declared)


@SETTINGS
@given(
    kind=st.sampled_from(list(trt.PoolingType.__members__.values())),
    lengths=per_axis(0, 7),
    batch=st.integers(0, 2),
    size=per_axis(1, 4),
    window=windows(),
    excludes=st.booleans(),
    is_dynamic=st.booleans(),
    seed=st.integers(0, 9),
)
def test_poolings(kind, lengths, batch, size, window, excludes, is_dynamic, seed):
    a = numbers((batch, 2, *lengths), seed)
    net = Net()
    declared = (-1, 2, -1, -1) if is_dynamic else a.shape
    layer = net.network.add_pooling_nd(net.input("x", "FLOAT", declared), kind, size)
    for name, value in (window | {"average_count_excludes_padding": excludes, "blend_factor": 0.25}).items():
        setattr(layer, name, value)
    agree(net, layer, a, declared)


@SETTINGS
@given(
    mode=st.sampled_from(list(trt.InterpolationMode.__members__.values())),
    where=st.sampled_from(list(trt.ResizeCoordinateTransformation.__members__.values())),
    selector=st.sampled_from(list(trt.ResizeSelector.__members__.values())),
    rounding=st.sampled_from(list(trt.ResizeRoundMode.__members__.values())),
    excludes=st.booleans(),
    coefficient=st.sampled_from([-0.75, -0.5]),
    lengths=per_axis(0, 7),
    wanted=per_axis(0, 9),
    scales=st.none() | st.tuples(*[st.floats(0.25, 3.0)] * 2),
    is_dynamic=st.booleans(),
    seed=st.integers(0, 9),
)
def test_resizes(
    mode, where, selector, rounding, excludes, coefficient, lengths, wanted, scales, is_dynamic, seed
):
    a = numbers((2, *lengths), seed)
    net = Net()
    declared = (-1, -1, -1) if is_dynamic else a.shape
    layer = net.network.add_resize(net.input("x", "FLOAT", declared))
    if scales is not None:
        layer.scales = (1, *scales)
    else:
        layer.shape = (2, *wanted)
    layer.resize_mode, layer.coordinate_transformation = mode, where
    layer.selector_for_single_pixel, layer.nearest_rounding = selector, rounding
    layer.exclude_outside, layer.cubic_coeff = excludes, coefficient
    agree(net, layer, a, declared)
