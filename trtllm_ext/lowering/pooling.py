"""Pooling and padding.

ONNX Runtime takes padding smaller than the window only. Every window of a pooling that TensorRT accepts begins before
the end of the input, so padding of one less than the window gives as many windows as any more would.
"""

from operator import add
from typing import Any

import numpy as np

from trtllm_ext.lowering.element_types import FLOAT
from trtllm_ext.lowering.emitter import Emitter
from trtllm_ext.lowering.layer import Layer
from trtllm_ext.lowering.movement import CARRIER
from trtllm_ext.lowering.registry import lowers
from trtllm_ext.lowering.values import Value
from trtllm_ext.lowering.windows import Windows, windows_of, without_the_unseen


@lowers("POOLING")
def pooling(layer: Layer) -> Value:
    """Maximum or average of windows, or a mixture of the two."""
    emitter, value = layer.emitter, layer.operand(0)
    size = tuple(layer.api.window_size_nd)
    windows = windows_of(layer, size, (1,) * len(size))
    value = without_the_unseen(layer, value, windows)
    kind: str = layer.api.type.name
    if kind == "MAX":
        return _maximum(layer, value, windows)
    if kind == "AVERAGE":
        return _average(layer, value, windows)
    share = float(layer.api.blend_factor)
    most = emitter.map("Mul", _maximum(layer, value, windows), emitter.scalar(1.0 - share))
    mean = emitter.map("Mul", _average(layer, value, windows), emitter.scalar(share))
    return emitter.map("Add", most, mean)


def _maximum(layer: Layer, value: Value, windows: Windows) -> Value:
    return _pool(layer, "MaxPool", value, windows, windows.pre, _behind(windows))


def _average(layer: Layer, value: Value, windows: Windows) -> Value:
    # What a window hangs over the padding, where their number is rounded up, counts as padding does (seen with
    # TensorRT 8.6).
    counted = int(not layer.api.average_count_excludes_padding)
    return _pool(
        layer, "AveragePool", value, windows, windows.pre, _behind(windows), count_include_pad=counted
    )


def _behind(windows: Windows) -> tuple[int, ...]:
    asked = map(add, windows.post, windows.overhang)
    return tuple(map(min, asked, (span - 1 for span in windows.span)))


def _pool(
    layer: Layer,
    op_type: str,
    value: Value,
    windows: Windows,
    pre: tuple[int, ...],
    post: tuple[int, ...],
    **attributes: Any,
) -> Value:
    where: dict[str, Any] = {"pads": [*pre, *post]}
    if windows.auto_pad != "NOTSET":
        where = {"auto_pad": windows.auto_pad}
    return layer.emitter.node(
        op_type,
        [value],
        FLOAT,
        layer.output_shape,
        kernel_shape=list(windows.span),
        strides=list(windows.strides),
        **where,
        **attributes,
    )


@lowers("PADDING")
def padding(layer: Layer) -> Value:
    """Zeros around the last two dimensions, or less of them."""
    emitter, value = layer.emitter, layer.raw(0)
    value = emitter.cast(value, CARRIER.get(value.onnx_type, value.onnx_type))
    return _with_zeros(emitter, value, tuple(layer.api.pre_padding_nd), tuple(layer.api.post_padding_nd))


def _with_zeros(emitter: Emitter, value: Value, pre: tuple[int, ...], post: tuple[int, ...]) -> Value:
    """`value` with zeros before and behind its last dimensions; negative numbers cut off."""
    kept = value.ndim - len(pre)
    lengths = [
        length if length < 0 else length + before + behind
        for length, before, behind in zip(value.shape[kept:], pre, post, strict=True)
    ]
    pads = emitter.keep(np.array([0] * kept + [*pre] + [0] * kept + [*post], np.int64))
    return emitter.node("Pad", [value, pads], value.onnx_type, (*value.shape[:kept], *lengths))
