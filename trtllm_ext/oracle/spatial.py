"""Layers that slide a window over spatial dimensions, or pad them: convolution, deconvolution, pooling, padding.

Shapes are (batch, channels, *lengths). Formulas: TensorRT's PaddingMode, with I a length of the input, S the stride,
B and A padding before and behind, and DK = 1 + dilation * (size - 1) what a window spans.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from trtllm_ext.oracle.call import Call, ints
from trtllm_ext.oracle.values import Array, is_floating, member_name, widened
from trtllm_ext.oracle.weights import stored_values

Slices = tuple[Any, ...]


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


class _Sliding:
    """The windows of a convolution or pooling over lengths I: where they start, and the padding around the input."""

    def __init__(
        self, call: Call, layer: Any, lengths: tuple[int, ...], size: tuple[int, ...], step: tuple[int, ...]
    ) -> None:
        mode = member_name(layer.padding_mode)
        self.size, self.step = size, step
        self.strides = ints(layer.stride_nd)
        spans = [1 + d * (k - 1) for k, d in zip(size, step, strict=True)]
        before, behind, counts = [], [], []
        for axis, (length, span, stride) in enumerate(zip(lengths, spans, self.strides, strict=True)):
            if mode.startswith("SAME"):
                if length == 0:
                    call.refuse(
                        f"mode {mode} has no place for a window in dimension {axis + 2}, which is empty"
                    )
                count = _ceil(length, stride)
                whole = max((length - 1) // stride * stride + span - length, 0)
                first = whole // 2 if mode == "SAME_UPPER" else whole - whole // 2
                last = whole - first
            else:
                first, last = int(layer.pre_padding[axis]), int(layer.post_padding[axis])
                room = length + first + last - span
                if room < 0:
                    call.refuse(
                        f"a window that spans {span} does not fit {length} elements and their padding"
                    )
                count = (_ceil(room, stride) if mode == "EXPLICIT_ROUND_UP" else room // stride) + 1
            before.append(first)
            behind.append(last)
            counts.append(count)
        self.before, self.behind, self.counts = tuple(before), tuple(behind), tuple(counts)
        # How far windows reach beyond the padding: only where their number is rounded up.
        self.beyond = tuple(
            max((count - 1) * stride + span - (length + first + last), 0)
            for count, stride, span, length, first, last in zip(
                counts, self.strides, spans, lengths, before, behind, strict=True
            )
        )

    def surrounded(self, x: Array, padding: float, outside: float) -> Array:
        """x with its padding, and with `outside` where windows reach further than that."""
        lead = [(0, 0)] * (x.ndim - len(self.size))
        padded = np.pad(x, [*lead, *zip(self.before, self.behind, strict=True)], constant_values=padding)
        return np.pad(padded, [*lead, *((0, more) for more in self.beyond)], constant_values=outside)

    def taps(self) -> Iterator[tuple[tuple[int, ...], Slices]]:
        """Each place in the window, with the elements of the surrounded input that all windows have there."""
        for tap in itertools.product(*map(range, self.size)):
            yield (
                tap,
                tuple(
                    slice(at * step, at * step + (count - 1) * stride + 1 if count else 0, stride)
                    for at, step, count, stride in zip(tap, self.step, self.counts, self.strides, strict=True)
                ),
            )


def _parameter(call: Call, index: int, weights: Any, shape: tuple[int, ...], what: str) -> Array:
    """An input where it is set, else the layer's own weights."""
    given = call.optional(index)
    values = widened(stored_values(weights, call.known_weights(what))) if given is None else given
    if values.size != int(np.prod(shape, dtype=np.int64)) or not is_floating(values):
        call.refuse(f"the {what} must be {shape} floating numbers")
    return values.reshape(shape)


def _image(call: Call, spatial: int) -> Array:
    x = call.input(0)
    if not is_floating(x) or x.ndim != spatial + 2:
        call.refuse(
            f"the input must be floating, with {spatial + 2} dimensions, not {x.dtype} of shape {x.shape}"
        )
    return x


def _with_bias(call: Call, layer: Any, result: Array) -> Array:
    if call.optional(2) is None and len(layer.bias) == 0:
        return result
    maps = result.shape[1]
    bias = _parameter(call, 2, layer.bias, (maps,), "bias")
    return result + bias.reshape(1, maps, *(1,) * (result.ndim - 2))


def convolution(call: Call) -> Array:
    """out[k, o] = bias[k] + the sum over t, and c of k's group, of kernel[k, c, t] * x[c, o * S - B + t * dilation]."""
    layer = call.attributes("IConvolutionLayer")
    size = ints(layer.kernel_size_nd)
    x = _image(call, len(size))
    groups, maps = int(layer.num_groups), int(layer.num_output_maps)
    batch, channels = x.shape[:2]
    kernel = _parameter(call, 1, layer.kernel, (maps, channels // groups, *size), "kernel")
    windows = _Sliding(call, layer, x.shape[2:], size, ints(layer.dilation_nd))
    around = windows.surrounded(x, 0.0, 0.0)
    around = around.reshape(batch, groups, channels // groups, *around.shape[2:])
    kernel = kernel.reshape(groups, maps // groups, channels // groups, *size)
    result = np.zeros((batch, groups, maps // groups, *windows.counts))
    for tap, places in windows.taps():
        seen = around[(slice(None),) * 3 + places]
        weight = kernel[(slice(None),) * 3 + tap]
        # b batch, g group, c channel and m map of a group
        result += np.einsum("gmc,bgc...->bgm...", weight, seen)
    return _with_bias(call, layer, result.reshape(batch, maps, *windows.counts))


def deconvolution(call: Call) -> Array:
    """Each element adds itself times the kernel, from its index * S on; then B and A elements are trimmed off."""
    layer = call.attributes("IDeconvolutionLayer")
    size, strides, step = ints(layer.kernel_size_nd), ints(layer.stride_nd), ints(layer.dilation_nd)
    x = _image(call, len(size))
    groups, maps = int(layer.num_groups), int(layer.num_output_maps)
    batch, channels = x.shape[:2]
    kernel = _parameter(call, 1, layer.kernel, (channels, maps // groups, *size), "kernel")
    kernel = kernel.reshape(groups, channels // groups, maps // groups, *size)
    spans = [1 + d * (k - 1) for k, d in zip(size, step, strict=True)]
    reach = [(i - 1) * s + span for i, s, span in zip(x.shape[2:], strides, spans, strict=True)]
    grouped = x.reshape(batch, groups, channels // groups, *x.shape[2:])
    full = np.zeros((batch, groups, maps // groups, *reach))
    for tap in itertools.product(*map(range, size)):
        places: Slices = tuple(
            slice(at * d, at * d + (i - 1) * s + 1, s)
            for at, d, i, s in zip(tap, step, x.shape[2:], strides, strict=True)
        )
        weight = kernel[(slice(None),) * 3 + tap]
        full[(slice(None),) * 3 + places] += np.einsum("gcm,bgc...->bgm...", weight, grouped)
    trimmed = full.reshape(batch, maps, *reach)
    for axis, (length, span, stride) in enumerate(zip(reach, spans, strides, strict=True)):
        first, last = _trimming(layer, axis, span, stride)
        if first + last >= length:
            call.refuse(f"padding of {first} and {last} leaves nothing of dimension {axis + 2}")
        trimmed = np.take(trimmed, range(first, length - last), axis=axis + 2)
    return _with_bias(call, layer, trimmed)


def _trimming(layer: Any, axis: int, span: int, stride: int) -> tuple[int, int]:
    mode = member_name(layer.padding_mode)
    if not mode.startswith("SAME"):
        return int(layer.pre_padding[axis]), int(layer.post_padding[axis])
    whole = max(span - stride, 0)
    return (whole // 2, whole - whole // 2) if mode == "SAME_UPPER" else (whole - whole // 2, whole // 2)


def pooling(call: Call) -> Array:
    """MAX, AVERAGE, or (1 - blend) * MAX + blend * AVERAGE of each window."""
    layer = call.attributes("IPoolingLayer")
    size = ints(layer.window_size_nd)
    x = _image(call, len(size))
    windows = _Sliding(call, layer, x.shape[2:], size, (1,) * len(size))
    if not np.all(_counted(windows, np.ones(x.shape[2:]))):
        call.refuse("a window sees nothing but padding")
    kind = member_name(layer.type)
    results = []
    if kind != "AVERAGE":
        around = windows.surrounded(x, -np.inf, -np.inf)
        results.append(np.max([around[(..., *places)] for _, places in windows.taps()], axis=0))
    if kind != "MAX":
        count: Array | float = float(np.prod(size))
        if bool(layer.average_count_excludes_padding):
            count = _counted(windows, np.ones(x.shape[2:]))
        results.append(_counted(windows, x) / count)
    if len(results) == 1:
        return np.asarray(results[0])
    blend = float(layer.blend_factor)
    return np.asarray((1.0 - blend) * results[0] + blend * results[1])


def _counted(windows: _Sliding, x: Array) -> Array:
    """The sum of each window."""
    around = windows.surrounded(x, 0.0, 0.0)
    return np.add.reduce([around[(..., *places)] for _, places in windows.taps()], axis=0)


def padding(call: Call) -> Array:
    """Zeros around the last two dimensions; negative numbers cut off."""
    layer = call.attributes("IPaddingLayer")
    x = call.input(0)
    for axis, before, behind in zip(
        (-2, -1), ints(layer.pre_padding_nd), ints(layer.post_padding_nd), strict=True
    ):
        if before + behind + x.shape[axis] < 0 or min(before, behind) < -x.shape[axis]:
            call.refuse(
                f"padding of {before} and {behind} cuts more off than the {x.shape[axis]} elements there are"
            )
        kept = np.take(x, range(max(-before, 0), x.shape[axis] - max(-behind, 0)), axis=axis)
        around = [(0, 0)] * x.ndim
        around[axis] = (max(before, 0), max(behind, 0))
        x = np.pad(kept, around)
    return x
