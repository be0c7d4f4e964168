"""Rules of convolution, deconvolution, pooling and padding."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trtllm_ext.embedded.enums import PoolingType
from trtllm_ext.embedded.rules.known import FLOATS, INDICES, Known, OperandError, RuleError
from trtllm_ext.embedded.rules.typing import common_type, require_type
from trtllm_ext.embedded.rules.weights import check_weights
from trtllm_ext.embedded.rules.windows import SAME, Window, check_image, checked, positions, spread, windows


def convolution(
    attributes: Mapping[str, Any], inputs: Sequence[Known | None], strongly_typed: bool
) -> list[Known]:
    """(batch, channels, *lengths) -> (batch, maps, *positions of the kernel)."""
    return _with_kernel(attributes, inputs, strongly_typed, "a convolution", positions)


def deconvolution(
    attributes: Mapping[str, Any], inputs: Sequence[Known | None], strongly_typed: bool
) -> list[Known]:
    """(batch, channels, *lengths) -> (batch, maps, *lengths of which a convolution would make these)."""
    return _with_kernel(attributes, inputs, strongly_typed, "a deconvolution", spread)


def _with_kernel(
    attributes: Mapping[str, Any],
    inputs: Sequence[Known | None],
    strongly_typed: bool,
    what: str,
    length_after: Callable[[int, Window, int], int],
) -> list[Known]:
    data, kernel, bias = [*inputs, None, None][:3]
    if data is None:
        raise OperandError("input 0 is missing")
    size = attributes["kernel_size_nd"]
    check_image(data, size, what)
    channels, maps, groups = data.shape[1], attributes["num_output_maps"], attributes["num_groups"]
    if channels < 0:
        raise OperandError(
            f"the channels, dimension 1, of {what} must be known, but the input is {data.shape}"
        )
    if channels == 0:
        # ONNX Runtime fails on a convolution of no channels, or does not come back from it (seen with 1.31).
        raise OperandError(f"{what} needs at least one channel, dimension 1, but the input is {data.shape}")
    if maps < 1 or groups < 1 or maps % groups or channels % groups:
        raise RuleError(
            f"{groups} groups must divide the {channels} channels of the input and the {maps} maps of the output, "
            "which must be at least 1"
        )
    first, second = (channels, maps) if length_after is spread else (maps, channels)
    shape = (first, second // groups, *size)
    _check_parameter(attributes, "kernel", kernel, shape, data, strongly_typed)
    if bias is not None or attributes["bias"].size:
        _check_parameter(attributes, "bias", bias, (maps,), data, strongly_typed)
    dtype = common_type([one for one in (data, kernel, bias) if one is not None], strongly_typed, what)
    lengths = [
        length_after(length, window, axis)
        for axis, (length, window) in enumerate(
            zip(data.shape[2:], windows(attributes, "kernel_size_nd"), strict=True), start=2
        )
    ]
    return [Known(dtype, (data.shape[0], maps, *lengths))]


def _check_parameter(
    attributes: Mapping[str, Any],
    name: str,
    given: Known | None,
    shape: tuple[int, ...],
    data: Known,
    strongly_typed: bool,
) -> None:
    """Raises RuleError unless the weights, or the input that replaces them, have the elements of `shape`."""
    weights, number = attributes[name], 1 if name == "kernel" else 2
    if given is None:
        if name == "kernel" and weights.size == 0 and math.prod(shape):
            raise RuleError(f"there is no kernel: give weights of shape {shape}, or set input 1")
        check_weights(weights, math.prod(shape), data, f"the {name} of shape {shape}", strongly_typed)
        return
    if weights.size:
        raise RuleError(f"the {name} is both weights and input {number}; set the weights to Weights()")
    require_type(given.dtype, FLOATS, f"the {name} (input {number})")
    fits = len(given.shape) == len(shape) and all(
        have in (-1, want) for have, want in zip(given.shape, shape, strict=True)
    )
    if not fits:
        raise RuleError(f"the {name} (input {number}) must have shape {shape}, not {given.shape}")


def pooling(attributes: Mapping[str, Any], inputs: Sequence[Known], strongly_typed: bool) -> list[Known]:
    """(batch, channels, *lengths) -> (batch, channels, *positions of the window)."""
    [data] = inputs
    check_image(data, attributes["window_size_nd"], "a pooling")
    blend = attributes["blend_factor"]
    if attributes["type"] == PoolingType.MAX_AVERAGE_BLEND and not 0 <= blend <= 1:
        raise RuleError(f"blend_factor must be from 0 to 1, not {blend}")
    lengths = []
    found = windows(attributes, "window_size_nd")
    for axis, (length, window) in enumerate(zip(data.shape[2:], found, strict=True), start=2):
        count = positions(length, window, axis)
        _check_something_pooled(length, count, window, axis)
        lengths.append(count)
    return [Known(data.dtype, (*data.shape[:2], *lengths))]


def _check_something_pooled(length: int, count: int, window: Window, axis: int) -> None:
    """Raises RuleError if a window sees padding only: there is no maximum or average of nothing."""
    if window.mode in SAME:
        return
    last = (count - 1) * window.stride - window.pre
    if window.pre >= window.span or length == 0 or (length > 0 and last >= length):
        raise RuleError(
            f"in dimension {axis} a window of {window.span} would see padding only: the input is {length} long, "
            f"stride {window.stride}, padding {window.pre} and {window.post}. Make padding and stride "
            "smaller than the window, or round down."
        )


def padding(attributes: Mapping[str, Any], inputs: Sequence[Known], strongly_typed: bool) -> list[Known]:
    """The last two dimensions made longer by zeros, or shorter."""
    [data] = inputs
    require_type(data.dtype, FLOATS | INDICES, "a padding")
    if len(data.shape) < 4:
        raise OperandError(
            f"a padding takes an input of at least 4 dimensions, not {data.shape}; use a slice in mode FILL"
        )
    pre, post = attributes["pre_padding_nd"], attributes["post_padding_nd"]
    if len(pre) != 2 or len(post) != 2:
        raise RuleError(f"a padding is of 2 dimensions; pre_padding_nd is {pre} and post_padding_nd {post}")
    result = list(data.shape)
    for axis, before, behind in zip((-2, -1), pre, post, strict=True):
        length = data.shape[axis]
        # What is cut off must be there; a length of 0 is the least that may be left.
        if length >= 0 and min(length + before, length + behind, length + before + behind) < 0:
            raise RuleError(
                f"padding of {before} and {behind} cuts more than there is off dimension {len(result) + axis}, which "
                f"is {length} long"
            )
        result[axis] = -1 if length < 0 else checked(length + before + behind, len(result) + axis)
    return [Known(data.dtype, tuple(result))]
