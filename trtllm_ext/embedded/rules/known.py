"""What is known of a tensor before it is computed, and the errors of the rules."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from trtllm_ext.embedded.enums import DataType

# An object array of the tensor's shape: Python ints, bools or floats, and None where a value is not known. So
# `shape(x)` of x with shape (-1, 384) has the value [None, 384].
HostValue: TypeAlias = np.ndarray[Any, np.dtype[np.object_]]

# Shape arithmetic is on a handful of numbers; larger tensors are data, and their values are not followed.
MAX_HOST_VOLUME = 64

FLOATS = frozenset({DataType.FLOAT, DataType.HALF, DataType.BF16})
INDICES = frozenset({DataType.INT32, DataType.INT64})
NUMBERS = FLOATS | INDICES | {DataType.INT8}

# float16 and bfloat16 are left out: nothing computes shapes in them, and their rounding would have to be followed.
_HELD = frozenset({DataType.INT32, DataType.INT64, DataType.BOOL, DataType.FLOAT})

_LARGEST_FLOAT = float(np.finfo(np.float32).max)
RANGE = {
    DataType.INT32: (-(2**31), 2**31 - 1),
    DataType.INT64: (-(2**63), 2**63 - 1),
}


class RuleError(ValueError):
    """A layer cannot be: its inputs and attributes do not fit. Another attribute or input may still mend it."""


class OperandError(RuleError):
    """A layer cannot be with these inputs, whatever its attributes become."""


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """Type, shape and values of a tensor as far as they are known.

    shape: lengths, -1 where unknown. value: see HostValue; None if no element is known.
    """

    dtype: DataType
    shape: tuple[int, ...]
    value: HostValue | None = None

    @property
    def is_exact(self) -> bool:
        """Whether every length is known."""
        return -1 not in self.shape

    @property
    def has_value(self) -> bool:
        """Whether every element is known."""
        return self.value is not None and all(element is not None for element in self.value.flat)

    def elements(self) -> HostValue:
        """The value, with None everywhere if nothing is known. Raises ValueError if the shape is not exact."""
        if self.value is not None:
            return self.value
        if not self.is_exact:
            raise ValueError(f"a tensor of shape {self.shape} has no elements to list")
        return np.full(self.shape, None, dtype=object)


def may_be_equal(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether two shapes, with -1 for lengths that are not known, may turn out the same."""
    return len(one) == len(other) and all(a == b or -1 in (a, b) for a, b in zip(one, other, strict=True))


def can_hold(dtype: DataType, shape: tuple[int, ...]) -> bool:
    """Whether values of such a tensor are followed."""
    if dtype not in _HELD or -1 in shape:
        return False
    volume = 1
    for length in shape:
        # Beside a length of 0 another may be of any size.
        if length > MAX_HOST_VOLUME:
            return False
        volume *= length
    return volume <= MAX_HOST_VOLUME


def known_with(dtype: DataType, shape: tuple[int, ...], elements: Iterable[Any] | None) -> Known:
    """A Known with a value from `elements` in row-major order, if such a value is followed and fits the type."""
    if elements is None or not can_hold(dtype, shape):
        return Known(dtype, shape)
    flat = [fit(element, dtype) for element in elements]
    if flat and all(element is None for element in flat):
        return Known(dtype, shape)
    value = np.empty(len(flat), dtype=object)
    value[:] = flat
    return Known(dtype, shape, value.reshape(shape))


def fit(element: Any, dtype: DataType) -> Any:
    """`element` as a Python value of `dtype`, or None if it is None or overflows the type."""
    if element is None:
        return None
    if dtype == DataType.BOOL:
        return bool(element)
    if dtype == DataType.FLOAT:
        if -_LARGEST_FLOAT <= element <= _LARGEST_FLOAT:
            return float(np.float32(element))
        with np.errstate(over="ignore"):
            return float(np.float32(element))
    low, high = RANGE[dtype]
    return int(element) if low <= element <= high else None


def describe(known: Known) -> str:
    """`known` for a message: its type and shape."""
    return f"{known.dtype.name} {known.shape}"
