"""Resize against torch's interpolation, and where that has no such mode against formulas in exact numbers."""

from fractions import Fraction
from math import ceil, floor

import numpy as np
import pytest
import torch
from lowered_net import FLOATS, NUMPY, Net, same_bits
from sampling import covered
from torch.nn import functional as F  # noqa: N812

import trtllm_ext.embedded as trt

BUDGET_S = 6
MODE, WHERE, ROUND = trt.InterpolationMode, trt.ResizeCoordinateTransformation, trt.ResizeRoundMode


def resized(a, type_name="FLOAT", *, declared=None, **attributes):
    net = Net()
    net.mark(net.op("resize", net.input("x", type_name, declared or a.shape), **attributes))
    return net.run({"x": a})["y"]


def numbers(shape, type_name="FLOAT"):
    return np.random.default_rng(0).standard_normal(shape).astype(NUMPY[type_name])


def interpolated(a, size, mode, **arguments):
    return F.interpolate(torch.from_numpy(a.astype(np.float64)), size=size, mode=mode, **arguments).numpy()


LINEAR = {3: "linear", 4: "bilinear", 5: "trilinear"}


@covered(type_name=FLOATS, corners=[False, True])
@pytest.mark.parametrize(
    ("shape", "size"),
    [((2, 3, 5), (9,)), ((2, 3, 5, 4), (3, 11)), ((1, 2, 3, 4, 5), (5, 4, 2)), ((0, 3, 5, 4), (3, 11))],
)
def test_linear(shape, size, corners, type_name):
    a = numbers(shape, type_name)
    where = WHERE.ALIGN_CORNERS if corners else WHERE.HALF_PIXEL
    got = resized(
        a,
        type_name,
        declared=(-1, *shape[1:2], *(-1 for _ in size)),
        scales=(1, 1, *(after / before for after, before in zip(size, shape[2:], strict=True))),
        resize_mode=MODE.LINEAR,
        coordinate_transformation=where,
    )
    expected = interpolated(a, size, LINEAR[len(shape)], align_corners=corners)
    unit = {"FLOAT": 2e-6, "HALF": 1.01 * 2**-11, "BF16": 1.01 * 2**-8}[type_name]
    np.testing.assert_allclose(got.astype(np.float64), expected, rtol=unit, atol=2e-6)


@pytest.mark.parametrize("corners", [False, True])
def test_cubic(corners):
    a = numbers((2, 3, 5, 6))
    where = WHERE.ALIGN_CORNERS if corners else WHERE.HALF_PIXEL
    attributes = {"resize_mode": MODE.CUBIC, "coordinate_transformation": where, "shape": (2, 3, 11, 4)}
    expected = interpolated(a, (11, 4), "bicubic", align_corners=corners)
    np.testing.assert_allclose(resized(a, **attributes), expected, atol=5e-6)


@covered(type_name=FLOATS, length=[1, 5, 31])
def test_nearest_as_torch_has_it(length, type_name):
    a = numbers((2, 3, 7), type_name)
    expected = interpolated(a, (length,), "nearest").astype(np.float32).astype(NUMPY[type_name])
    same_bits(resized(a, type_name, shape=(2, 3, length)), expected)


ROUNDED = {
    "HALF_UP": lambda place: floor(place + Fraction(1, 2)),
    "HALF_DOWN": lambda place: ceil(place - Fraction(1, 2)),
    "FLOOR": floor,
    "CEIL": ceil,
}
PLACE = {
    "ALIGN_CORNERS": lambda i, before, after: Fraction(i * (before - 1), max(after - 1, 1)),
    "ASYMMETRIC": lambda i, before, after: Fraction(i * before, after),
    "HALF_PIXEL": lambda i, before, after: (i + Fraction(1, 2)) * Fraction(before, after) - Fraction(1, 2),
}


@covered(where=PLACE, rounding=ROUNDED, is_dynamic=[False, True])
def test_rounding_is_exact_for_all_lengths(is_dynamic, rounding, where):
    """Places that lie on a border between elements, among them, for which float32 is not good enough."""
    net = Net()
    x = net.input("x", "FLOAT", (-1,) if is_dynamic else (49,))
    for after in (1, 7, 49, 98, 147, 300):
        layer = net.network.add_resize(x)
        layer.set_input(1, net.constant(np.array([after])))
        layer.nearest_rounding = getattr(ROUND, rounding)
        layer.coordinate_transformation = getattr(WHERE, where)
        net.mark(layer.get_output(0), f"y{after}")
    for before in (49, 10, 3) if is_dynamic else (49,):
        got = net.run({"x": np.arange(before, dtype=np.float32)})
        for after in (1, 7, 49, 98, 147, 300):
            places = [ROUNDED[rounding](PLACE[where](i, before, after)) for i in range(after)]
            np.testing.assert_array_equal(
                got[f"y{after}"], np.clip(places, 0, before - 1), err_msg=f"{before}"
            )


@pytest.mark.parametrize("selector", ["FORMULA", "UPPER"])
def test_a_single_element(selector):
    a = numbers((1, 2, 5))
    attributes = {
        "resize_mode": MODE.LINEAR,
        "coordinate_transformation": WHERE.HALF_PIXEL,
        "selector_for_single_pixel": getattr(trt.ResizeSelector, selector),
    }
    got = resized(a, shape=(1, 2, 1), **attributes)
    np.testing.assert_array_equal(got[..., 0], a[..., 2 if selector == "FORMULA" else 0])
    # The float32 nearest to 0.2 is a little more.
    by_scale = resized(a, declared=(1, 2, -1), scales=(1, 1, 0.2), **attributes)
    np.testing.assert_allclose(by_scale, got, rtol=1e-6)


@covered(transformation=["ASYMMETRIC", "HALF_PIXEL"], mode=["LINEAR", "NEAREST"])
def test_places_lie_as_far_apart_as_the_scale_says(mode, transformation):
    """7 elements by 0.5 are 3, and 2 elements apart, not 7/3: so it is on TensorRT."""
    a = np.arange(7, dtype=np.float32)[None]
    attributes = {
        "resize_mode": getattr(MODE, mode),
        "coordinate_transformation": getattr(WHERE, transformation),
    }
    places = np.arange(3) * 2 + (0.5 if transformation == "HALF_PIXEL" else 0)
    expected = places if mode == "LINEAR" else np.floor(places)
    for declared in ((1, -1), (1, 7)):
        got = resized(a, declared=declared, scales=(1, 0.5), **attributes)
        np.testing.assert_array_equal(got[0], expected)


def test_lengths_by_scale_are_rounded_down_in_float32():
    """10 * 0.7 is 7 in float32, though the nearest float32 to 0.7 is less than it."""
    for scale, expected in ((0.7, 7), (0.69, 6), (1.05, 10), (0.3, 3)):
        got = resized(numbers((1, 10)), declared=(1, -1), scales=(1, scale))
        assert got.shape == (1, expected), scale
        assert resized(numbers((1, 10)), scales=(1, scale)).shape == (1, expected), scale


def test_what_is_known_at_build_time_is_computed_then():
    net = Net()
    net.mark(net.op("resize", net.input("x", "FLOAT", (-1, 3, 4, 4)), scales=(1, 1, 2, 2)))
    assert [node.op_type for node in net.segment().model.graph.node] == ["Gather", "Gather"]
