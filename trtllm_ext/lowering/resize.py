"""Resize: nearest, linear and cubic interpolation.

Dimensions are interpolated one after another by gathers. Where an element of the output lies in the input is a
fraction of integers, so that rounding is exact for any lengths or scales, which ONNX Runtime's Resize, computing in
float32, is not; nor does that take every rank and type. What is known at build time is computed here.
"""

from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from trtllm_ext.lowering.element_types import FLOAT, INT64
from trtllm_ext.lowering.emitter import Emitter
from trtllm_ext.lowering.layer import Layer
from trtllm_ext.lowering.movement import unsqueeze
from trtllm_ext.lowering.registry import lowers
from trtllm_ext.lowering.values import Value

# Products of numbers below it with an index stay within int64.
_MOST = 2**40
# How many of the last dimensions each mode interpolates.
_INNERMOST = {"NEAREST": 8, "LINEAR": 3, "CUBIC": 2}

# Integers divide towards zero, as in ONNX.
_NUMPY: dict[str, Callable[..., np.ndarray]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": lambda a, b: np.divide(a, b) if a.dtype.kind == "f" else np.sign(a) * (np.abs(a) // b),
    "Min": np.minimum,
    "Max": np.maximum,
}


class _Places(NamedTuple):
    """Where elements of the output lie in one dimension of the input: `over / under`, exactly.

    over: 1-D int64; under: 0-d int64, positive; last: the index of the input's last element, 0-d.
    """

    over: Value
    under: Value
    last: Value


@lowers("RESIZE")
def resize(layer: Layer) -> Value:
    """The input interpolated to other lengths."""
    mode: str = layer.api.resize_mode.name
    value = layer.raw(0) if mode == "NEAREST" else layer.operand(0)
    interpolate = {"NEAREST": _nearest, "LINEAR": _linear, "CUBIC": _cubic}[mode]
    for axis in range(max(value.ndim - _INNERMOST[mode], 0), value.ndim):
        if not _is_kept(layer, value, axis):
            value = interpolate(layer, value, axis)
    return value


def _is_kept(layer: Layer, value: Value, axis: int) -> bool:
    """Whether a dimension keeps its length, and with it its elements."""
    scale = _scale(layer, axis)
    if scale is not None:
        return scale == 1
    if layer.output_shape[axis] >= 0:
        return value.shape[axis] == layer.output_shape[axis]
    length, wanted = layer.raw(0).lengths[axis], layer.raw(1).elements
    return wanted is not None and wanted[axis] is not None and wanted[axis] == length


def _scale(layer: Layer, axis: int) -> Fraction | None:
    """The scale of a dimension, exactly; None where lengths are given instead."""
    if layer.has(1) or not len(layer.api.scales):
        return None
    scale = Fraction(float(np.float32(layer.api.scales[axis])))
    if max(scale.numerator, scale.denominator) > _MOST:
        raise layer.refusal(
            f"the scale of dimension {axis} is {layer.api.scales[axis]!r}; it takes scales from 2**-16 to 2**16"
        )
    return scale


def _places(layer: Layer, value: Value, axis: int) -> _Places:
    emitter = layer.emitter
    one, two = emitter.ints(1), emitter.ints(2)
    length, wanted = emitter.dim_of(value, axis), _wanted(layer, value, axis)
    index = _range(emitter, wanted, layer.output_shape[axis])
    last = _compute(emitter, "Sub", length, one)
    transformation: str = layer.api.coordinate_transformation.name
    # A scale that is given says how far places lie apart, also where it is not the ratio of the lengths (seen with
    # TensorRT 8.6).
    scale = _scale(layer, axis)
    from_length, to_length = length, wanted
    if scale is not None:
        from_length, to_length = emitter.ints(scale.denominator), emitter.ints(scale.numerator)
    if transformation == "ALIGN_CORNERS":
        over = _compute(emitter, "Mul", index, last)
        under = _compute(emitter, "Sub", wanted, one)
    elif transformation == "ASYMMETRIC":
        over, under = _compute(emitter, "Mul", index, from_length), to_length
    else:
        centre = _compute(emitter, "Add", _compute(emitter, "Mul", index, two), one)
        over = _compute(emitter, "Sub", _compute(emitter, "Mul", centre, from_length), to_length)
        under = _compute(emitter, "Mul", to_length, two)
    if layer.api.selector_for_single_pixel.name == "UPPER":
        # Nothing, if there is one element only.
        many = _compute(emitter, "Min", _compute(emitter, "Sub", wanted, one), one)
        over = _compute(emitter, "Mul", over, many)
    return _Places(over, _compute(emitter, "Max", under, one), last)


def _wanted(layer: Layer, value: Value, axis: int) -> Value:
    """The length of a dimension of the output, 0-d int64."""
    emitter = layer.emitter
    if layer.output_shape[axis] >= 0:
        return emitter.ints(layer.output_shape[axis])
    if layer.has(1):
        return emitter.cast(emitter.element(layer.raw(1), axis), INT64)
    length = emitter.cast(emitter.dim_of(value, axis), FLOAT)
    scaled = emitter.map("Mul", length, emitter.scalar(layer.api.scales[axis]))
    return emitter.cast(emitter.map("Floor", scaled), INT64)


def _nearest(layer: Layer, value: Value, axis: int) -> Value:
    """Of the rounded places none is below 0: no place is below -1/2, and division is towards zero."""
    emitter, places = layer.emitter, _places(layer, value, axis)
    over, under = places.over, places.under
    rounding: str = layer.api.nearest_rounding.name
    if rounding.startswith("HALF"):
        over = _compute(emitter, "Add", _compute(emitter, "Mul", over, emitter.ints(2)), under)
        if rounding == "HALF_DOWN":
            over = _compute(emitter, "Sub", over, emitter.ints(1))
        under = _compute(emitter, "Mul", under, emitter.ints(2))
    elif rounding == "CEIL":
        over = _compute(emitter, "Add", over, _compute(emitter, "Sub", under, emitter.ints(1)))
    index = _compute(emitter, "Min", _compute(emitter, "Div", over, under), places.last)
    return _taken(layer, value, index, axis)


def _linear(layer: Layer, value: Value, axis: int) -> Value:
    """Between the element before a place and the one behind it; beyond the border, the border."""
    emitter, places = layer.emitter, _places(layer, value, axis)
    # From 0 on nothing but the border is read below the border, so the place may as well be there.
    over = _compute(emitter, "Max", places.over, emitter.ints(0))
    before, share = _split(emitter, over, places.under)
    behind = _compute(emitter, "Add", before, emitter.ints(1))
    parts = [(before, _compute(emitter, "Sub", emitter.scalar(1.0), share)), (behind, share)]
    return _weighted(layer, value, axis, places, parts)


def _cubic(layer: Layer, value: Value, axis: int) -> Value:
    """Of the two elements on each side of a place."""
    emitter, places = layer.emitter, _places(layer, value, axis)
    # A place may be half an element before the first.
    shifted = _compute(emitter, "Add", places.over, places.under)
    above, share = _split(emitter, shifted, places.under)
    parts = []
    for tap in range(-1, 3):
        index = _compute(emitter, "Add", above, emitter.ints(tap - 1))
        away = _compute(emitter, "Sub", share, emitter.scalar(float(tap)))
        distance = _compute(emitter, "Max", away, _compute(emitter, "Sub", emitter.scalar(0.0), away))
        parts.append((index, _cubic_weight(emitter, distance, float(layer.api.cubic_coeff), tap in (0, 1))))
    if bool(layer.api.exclude_outside):
        parts = _inside(emitter, parts, places.last)
    return _weighted(layer, value, axis, places, parts)


def _cubic_weight(emitter: Emitter, distance: Value, a: float, near: bool) -> Value:
    """Keys' kernel: one polynomial up to a distance of 1, `near`, and another up to 2."""
    coefficients = (a + 2.0, -(a + 3.0), 0.0, 1.0) if near else (a, -5.0 * a, 8.0 * a, -4.0 * a)
    result = emitter.scalar(coefficients[0])
    for coefficient in coefficients[1:]:
        product = _compute(emitter, "Mul", result, distance)
        result = _compute(emitter, "Add", product, emitter.scalar(coefficient))
    return result


def _inside(emitter: Emitter, parts: list[tuple[Value, Value]], last: Value) -> list[tuple[Value, Value]]:
    """The parts without those beyond the border, their weights adding up to 1 again."""
    zero, one = emitter.ints(0), emitter.ints(1)
    kept = []
    for index, weight in parts:
        # 1 for an index from 0 to the last, else 0.
        low = _compute(
            emitter, "Min", _compute(emitter, "Max", _compute(emitter, "Add", index, one), zero), one
        )
        room = _compute(emitter, "Add", _compute(emitter, "Sub", last, index), one)
        high = _compute(emitter, "Min", _compute(emitter, "Max", room, zero), one)
        within = emitter.cast(_compute(emitter, "Mul", low, high), FLOAT)
        kept.append((index, _compute(emitter, "Mul", weight, within)))
    total = kept[0][1]
    for _, weight in kept[1:]:
        total = _compute(emitter, "Add", total, weight)
    return [(index, _compute(emitter, "Div", weight, total)) for index, weight in kept]


def _split(emitter: Emitter, over: Value, under: Value) -> tuple[Value, Value]:
    """The whole part of a fraction, and the rest as float32."""
    whole = _compute(emitter, "Div", over, under)
    rest = _compute(emitter, "Sub", over, _compute(emitter, "Mul", whole, under))
    return whole, _compute(emitter, "Div", emitter.cast(rest, FLOAT), emitter.cast(under, FLOAT))


def _weighted(
    layer: Layer, value: Value, axis: int, places: _Places, parts: list[tuple[Value, Value]]
) -> Value:
    """The sum of elements at the indices, each times its weight; indices beyond the border are the border's."""
    emitter, behind = layer.emitter, value.ndim - axis - 1
    total: Value | None = None
    for index, weight in parts:
        index = _compute(emitter, "Max", _compute(emitter, "Min", index, places.last), emitter.ints(0))
        for _ in range(behind):
            weight = unsqueeze(emitter, weight, weight.ndim)
        part = emitter.map("Mul", _taken(layer, value, index, axis), weight)
        total = part if total is None else emitter.map("Add", total, part)
    assert total is not None  # for mypy: there are parts
    return total


def _taken(layer: Layer, value: Value, index: Value, axis: int) -> Value:
    shape = (*value.shape[:axis], layer.output_shape[axis], *value.shape[axis + 1 :])
    return layer.emitter.node("Gather", [value, index], value.onnx_type, shape, axis=axis)


def _range(emitter: Emitter, count: Value, length: int) -> Value:
    """0 .. count - 1, int64."""
    if count.data is not None:
        return emitter.keep(np.arange(int(count.array()), dtype=np.int64))
    return emitter.node("Range", [emitter.ints(0), count, emitter.ints(1)], INT64, (length,))


def _compute(emitter: Emitter, op_type: str, a: Value, b: Value) -> Value:
    """An operation on two numbers or vectors: computed here if both are constants."""
    if a.data is None or b.data is None:
        return emitter.map(op_type, a, b)
    return emitter.keep(_NUMPY[op_type](a.array(), b.array()))
