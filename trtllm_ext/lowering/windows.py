"""Where the windows of a convolution or pooling lie, as ONNX's attributes say it.

ONNX rounds the number of windows down; TensorRT's rounding up is more padding behind. I is a length of the input, S
the stride, and the span what a window covers: 1 + dilation * (size - 1).
"""

from dataclasses import dataclass

from trtllm_ext.lowering.element_types import FLOAT, INT64
from trtllm_ext.lowering.emitter import Emitter
from trtllm_ext.lowering.layer import Layer
from trtllm_ext.lowering.movement import unsqueeze
from trtllm_ext.lowering.values import Value


@dataclass(frozen=True)
class Windows:
    """Windows over the spatial dimensions.

    pre, post: padding; `overhang` comes behind it where the number of windows is rounded up. auto_pad: ONNX's word
    for padding that only a run can tell, which is then all padding there is.
    """

    span: tuple[int, ...]
    strides: tuple[int, ...]
    pre: tuple[int, ...]
    post: tuple[int, ...]
    overhang: tuple[int, ...]
    auto_pad: str = "NOTSET"


def windows_of(layer: Layer, size: tuple[int, ...], dilation: tuple[int, ...]) -> Windows:
    """The windows of a convolution or pooling."""
    mode: str = layer.api.padding_mode.name
    strides = tuple(layer.api.stride_nd)
    span = tuple(1 + step * (length - 1) for length, step in zip(size, dilation, strict=True))
    none = (0,) * len(size)
    if mode.startswith("SAME"):
        found = _same(layer.raw(0).shape[2:], span, strides, mode)
        if found is None:
            return Windows(span, strides, none, none, none, mode)
        return Windows(span, strides, *found, none)
    pre, post = tuple(layer.api.pre_padding), tuple(layer.api.post_padding)
    overhang = tuple(stride - 1 for stride in strides) if mode == "EXPLICIT_ROUND_UP" else none
    return Windows(span, strides, pre, post, overhang)


def with_same_padding(layer: Layer, value: Value, windows: Windows) -> Value:
    """The input with the zeros that only a run can tell, for a convolution that then pads no more.

    ONNX Runtime's convolution does that itself, but not with dilation.
    """
    emitter = layer.emitter
    none = emitter.ints([0])
    pre, post = [none, none], [none, none]
    for axis, (span, stride) in enumerate(zip(windows.span, windows.strides, strict=True), start=2):
        length, end = _length_and_end(emitter, value, axis, span, stride)
        total = emitter.map("Max", emitter.map("Sub", end, length), none)
        less = emitter.map("Div", total, emitter.ints([2]))
        more = emitter.map("Sub", total, less)
        pre.append(less if windows.auto_pad == "SAME_UPPER" else more)
        post.append(more if windows.auto_pad == "SAME_UPPER" else less)
    pads = emitter.node("Concat", [*pre, *post], INT64, (2 * value.ndim,), axis=0)
    return emitter.node("Pad", [value, pads], FLOAT, (*value.shape[:2], *(-1 for _ in windows.span)))


def without_the_unseen(layer: Layer, value: Value, windows: Windows) -> Value:
    """The input without elements behind the last window, which ONNX Runtime's pooling takes for padding below 0."""
    if windows.auto_pad == "NOTSET":
        return value
    emitter = layer.emitter
    for axis, (span, stride) in enumerate(zip(windows.span, windows.strides, strict=True), start=2):
        if stride > span:
            _, end = _length_and_end(emitter, value, axis, span, stride)
            shape = (*value.shape[:axis], -1, *value.shape[axis + 1 :])
            inputs = [value, emitter.ints([0]), end, emitter.ints([axis])]
            value = emitter.node("Slice", inputs, FLOAT, shape)
    return value


def _length_and_end(emitter: Emitter, value: Value, axis: int, span: int, stride: int) -> tuple[Value, Value]:
    """A length, and where the last of ceil(I / S) windows ends that begin with the input; 1-D."""
    length = unsqueeze(emitter, emitter.dim_of(value, axis), 0)
    steps = emitter.map("Div", emitter.map("Sub", length, emitter.ints([1])), emitter.ints([stride]))
    return length, emitter.map("Add", emitter.map("Mul", steps, emitter.ints([stride])), emitter.ints([span]))


def _same(
    lengths: tuple[int, ...], span: tuple[int, ...], strides: tuple[int, ...], mode: str
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The padding with which there are ceil(I / S) windows, or None if that depends on the run."""
    pre, post = [], []
    for length, covered, stride in zip(lengths, span, strides, strict=True):
        if length < 0 and stride > 1:
            return None
        # With a stride of 1 the length does not matter.
        reached = (max(length, 1) - 1) // stride * stride - max(length, 1)
        total = max(reached + covered, 0)
        less = total // 2
        pre.append(less if mode == "SAME_UPPER" else total - less)
        post.append(total - pre[-1])
    return tuple(pre), tuple(post)
