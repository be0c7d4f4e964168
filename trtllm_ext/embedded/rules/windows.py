"""How often a window fits into a dimension: the lengths that convolution, deconvolution and pooling give.

Formulas: TensorRT's PaddingMode. I is a length of the input, S the stride, B and A the padding before and behind,
M = I + B + A, and DK = 1 + dilation * (size - 1) what a window spans.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from trtllm_ext.embedded.enums import PaddingMode
from trtllm_ext.embedded.rules.known import FLOATS, Known, OperandError, RuleError
from trtllm_ext.embedded.rules.typing import require_type

MAX_LENGTH = 2**63 - 1
SAME = frozenset({PaddingMode.SAME_UPPER, PaddingMode.SAME_LOWER})


class Window(NamedTuple):
    """A window in one dimension."""

    span: int
    stride: int
    pre: int
    post: int
    mode: PaddingMode


def windows(attributes: Mapping[str, Any], size_name: str) -> list[Window]:
    """The window in each spatial dimension. Raises RuleError for numbers that no window has."""
    size = attributes[size_name]
    names = [size_name, "stride_nd", "dilation_nd", "pre_padding", "post_padding"]
    ones = (1,) * len(size)
    columns = [attributes.get(name, ones) for name in names]
    for name, numbers, least in zip(names, columns, (1, 1, 1, 0, 0), strict=True):
        if len(numbers) != len(size):
            raise RuleError(f"{name} {numbers} must have {len(size)} elements, as many as {size_name} {size}")
        if any(number < least for number in numbers):
            raise RuleError(f"{name} {numbers} has an element below {least}")
    return [
        Window(1 + dilation * (length - 1), stride, pre, post, attributes["padding_mode"])
        for length, stride, dilation, pre, post in zip(*columns, strict=True)
    ]


def check_image(data: Known, size: Sequence[int], what: str) -> None:
    """Raises OperandError unless `data` is floating point (batch, channels, *spatial) for a window of `size`."""
    require_type(data.dtype, FLOATS, what)
    if len(size) not in (2, 3):
        raise OperandError(
            f"{what} goes over 2 or 3 dimensions, not {len(size)}; give a 1-D one another dimension of length 1"
        )
    if len(data.shape) != len(size) + 2:
        raise OperandError(
            f"{what} over {len(size)} dimensions takes an input of shape (batch, channels, "
            f"{len(size)} lengths), not {data.shape}; reshape it to {len(size) + 2} dimensions"
        )


def positions(length: int, window: Window, axis: int) -> int:
    """How many windows there are in a dimension of the input; -1 if its length is not known.

    Raises RuleError if there is none.
    """
    if length < 0:
        return -1
    if window.mode in SAME:
        if length == 0:
            raise RuleError(f"dimension {axis} is empty; mode {window.mode.name} has no place for a window")
        return -(-length // window.stride)
    room = length + window.pre + window.post - window.span
    if room < 0:
        raise RuleError(
            f"a window that spans {window.span} does not fit dimension {axis}, which is {length} long with padding of "
            f"{window.pre} and {window.post}"
        )
    steps = room // window.stride
    if window.mode == PaddingMode.EXPLICIT_ROUND_UP:
        steps = -(-room // window.stride)
    return checked(steps + 1, axis)


def spread(length: int, window: Window, axis: int) -> int:
    """The length of a deconvolution's output; -1 if that of its input is not known. Raises RuleError below 1."""
    if length < 0:
        return -1
    if length == 0:
        raise RuleError(f"dimension {axis} is empty; a deconvolution needs at least one element")
    reach = (length - 1) * window.stride + window.span
    if window.mode in SAME:
        return checked(min(length * window.stride, reach), axis)
    result = reach - window.pre - window.post
    if result < 1:
        raise RuleError(
            f"padding of {window.pre} and {window.post} leaves nothing of dimension {axis}, which would be {reach} long"
        )
    return checked(result, axis)


def checked(length: int, axis: int) -> int:
    """`length` if a tensor can have it."""
    if length > MAX_LENGTH:
        raise RuleError(f"dimension {axis} would be {length} long")
    return length
