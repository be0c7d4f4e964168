"""Where the windows of a convolution or pooling lie, as ONNX's attributes say it.

ONNX rounds the number of windows down; TensorRT's rounding up is more padding behind. I is a length of the input, S
the stride, and the span what a window covers: 1 + dilation * (size - 1).
"""

from dataclasses import dataclass
from typing import Any

from trtllm_ext.lowering.layer import Layer


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

    def attributes(
        self, pre: tuple[int, ...] | None = None, post: tuple[int, ...] | None = None
    ) -> dict[str, Any]:
        """ONNX's attributes, with other padding if it is given."""
        shared: dict[str, Any] = {"strides": list(self.strides)}
        if self.auto_pad != "NOTSET":
            return shared | {"auto_pad": self.auto_pad}
        return shared | {
            "pads": [*(self.pre if pre is None else pre), *(self.post if post is None else post)]
        }


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
