"""Resize: every element of the output is looked up, or mixed, at its place in the input.

Places are exact fractions, so that rounding is that of the formulas and not of any floating type.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np

from trtllm_ext.oracle.call import Call, ints_if_set
from trtllm_ext.oracle.values import Array, is_floating, member_name

_DIMENSIONS = {"NEAREST": 8, "LINEAR": 3, "CUBIC": 2}


def resize(call: Call) -> Array:
    """One matrix for each dimension: row r says which elements of the input make element r of the output."""
    layer = call.attributes("IResizeLayer")
    x = call.input(0)
    if not is_floating(x):
        call.refuse(f"a resize takes floats, not {x.dtype}")
    lengths = _lengths(call, layer, x.shape)
    mode = member_name(layer.resize_mode)
    scales = _scales(call, layer)
    for axis, length in enumerate(lengths):
        if (length == x.shape[axis]) if scales is None else (scales[axis] == 1):
            continue
        if axis < x.ndim - _DIMENSIONS[mode]:
            call.refuse(f"mode {mode} does not resize dimension {axis} of {x.ndim}")
        if x.shape[axis] == 0:
            if length == 0:
                continue
            call.refuse(f"dimension {axis} is empty, and nothing can be made of it")
        distance = Fraction(x.shape[axis], max(length, 1)) if scales is None else 1 / scales[axis]
        rows = [_row(layer, mode, place, length, x.shape[axis], distance) for place in range(length)]
        x = _mixed(x, rows, axis)
    return x


def _scales(call: Call, layer: Any) -> list[Fraction] | None:
    """The scales, if they are given and lengths are not."""
    if call.optional(1) is not None or not len(layer.scales):
        return None
    return [Fraction(float(np.float32(scale))) for scale in layer.scales]


def _lengths(call: Call, layer: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    given = call.optional(1)
    if given is not None:
        lengths = tuple(int(length) for length in given)
    else:
        lengths = ints_if_set(layer.shape) or ()
        scales = list(layer.scales)
        if scales:
            lengths = tuple(
                int(np.floor(np.float32(n) * np.float32(s))) for n, s in zip(shape, scales, strict=True)
            )
    if len(lengths) != len(shape) or any(length < 0 for length in lengths):
        call.refuse(f"a tensor of shape {shape} does not become {lengths}")
    return lengths


def _mixed(x: Array, rows: list[dict[int, float]], axis: int) -> Array:
    """Along one dimension, the sums that `rows` describe: which element with which weight."""
    moved = np.moveaxis(x, axis, 0)
    result = np.zeros((len(rows), *moved.shape[1:]))
    for place, row in enumerate(rows):
        for source, weight in row.items():
            result[place] += weight * moved[source]
    return np.moveaxis(result, 0, axis)


def _place(layer: Any, index: int, resized: int, original: int, distance: Fraction) -> Fraction:
    """Where element `index` of the output lies in the input; `distance`: from one to the next, corners aside."""
    if resized == 1 and member_name(layer.selector_for_single_pixel) == "UPPER":
        return Fraction(0)
    transformation = member_name(layer.coordinate_transformation)
    if transformation == "ALIGN_CORNERS":
        return Fraction(0) if resized == 1 else Fraction(index * (original - 1), resized - 1)
    if transformation == "ASYMMETRIC":
        return index * distance
    return (index + Fraction(1, 2)) * distance - Fraction(1, 2)


def _row(
    layer: Any, mode: str, index: int, resized: int, original: int, distance: Fraction
) -> dict[int, float]:
    place = _place(layer, index, resized, original, distance)
    if mode == "NEAREST":
        return {_inside(_rounded(place, member_name(layer.nearest_rounding)), original): 1.0}
    first = math.floor(place)
    if mode == "LINEAR":
        share = float(place - first)
        taps = [(first, 1.0 - share), (first + 1, share)]
    else:
        a = float(layer.cubic_coeff)
        taps = [(tap, _keys(abs(float(place - tap)), a)) for tap in range(first - 1, first + 3)]
    if bool(layer.exclude_outside):
        taps = [(tap, weight) for tap, weight in taps if 0 <= tap < original]
        total = sum(weight for _, weight in taps)
        taps = [(tap, weight / total) for tap, weight in taps]
    row: dict[int, float] = {}
    for tap, weight in taps:
        row[_inside(tap, original)] = row.get(_inside(tap, original), 0.0) + weight
    return row


def _inside(index: int, length: int) -> int:
    return min(max(index, 0), length - 1)


def _rounded(place: Fraction, rounding: str) -> int:
    half = Fraction(1, 2)
    return {
        "FLOOR": math.floor(place),
        "CEIL": math.ceil(place),
        "HALF_UP": math.floor(place + half),
        "HALF_DOWN": math.ceil(place - half),
    }[rounding]


def _keys(x: float, a: float) -> float:
    """The cubic convolution kernel at a distance."""
    if x <= 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a if x < 2 else 0.0
