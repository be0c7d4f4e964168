"""How tensors are held here: float64 for every floating type, exact integers, booleans."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from trtllm_ext.oracle.errors import OracleError

Array = np.ndarray[Any, np.dtype[Any]]

FLOATING = frozenset({"FLOAT", "HALF", "BF16", "FP8"})

# TensorRT's type name -> the numpy type in which the oracle holds its values.
HELD_AS: dict[str, np.dtype[Any]] = {
    "INT4": np.dtype(np.int8),
    "FLOAT": np.dtype(np.float64),
    "HALF": np.dtype(np.float64),
    "BF16": np.dtype(np.float64),
    "FP8": np.dtype(np.float64),
    "INT8": np.dtype(np.int8),
    "UINT8": np.dtype(np.uint8),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "BOOL": np.dtype(np.bool_),
}

# TensorRT's type name -> the numpy type of its bytes in memory.
STORED_AS: dict[str, np.dtype[Any]] = {
    "FLOAT": np.dtype(np.float32),
    "HALF": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "FP8": np.dtype(ml_dtypes.float8_e4m3fn),
    "INT8": np.dtype(np.int8),
    "UINT8": np.dtype(np.uint8),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "BOOL": np.dtype(np.bool_),
}

_FLOAT_NAMES = frozenset({"float16", "float32", "float64", "bfloat16", "float8_e4m3fn"})


def member_name(member: Any) -> str:
    """The bare name of an enumerator: `ReduceOperation.SUM` -> 'SUM'."""
    return str(member).rsplit(".", 1)[-1]


def held_as(type_name: str) -> np.dtype[Any]:
    """The numpy type in which values of a TensorRT type are held; raises OracleError for types it has no use for."""
    try:
        return HELD_AS[type_name]
    except KeyError:
        known = ", ".join(HELD_AS)
        raise OracleError(f"The oracle cannot hold tensors of type {type_name}. It holds {known}.") from None


def is_floating(value: Array) -> bool:
    return value.dtype == np.float64


def widened(values: Array) -> Array:
    """An array of any stored type as the oracle holds it (float64, exact integer, bool). Exact."""
    if values.dtype.name in _FLOAT_NAMES:
        return values.astype(np.float64)
    if values.dtype == np.bool_ or values.dtype.kind in "iu":
        return values
    raise OracleError(
        f"The oracle cannot hold arrays of numpy type {values.dtype}. Give floats, integers or bools."
    )


def converted(value: Array, type_name: str) -> Array:
    """ICastLayer's conversion: float to integer truncates toward zero, anything to bool asks for non-zero.

    Integers wrap to the narrower width. A float that no value of the integer type stands for has no defined
    result in TensorRT, so it is refused (ValueError).
    """
    target = held_as(type_name)
    if value.dtype == target:
        return value
    if target == np.bool_:
        return np.asarray(value != 0)
    if is_floating(value) and target.kind in "iu":
        whole = np.trunc(value)
        # 2^63 is a float64, 2^63 - 1 is not: the upper bound is open.
        low, high = float(np.iinfo(target).min), float(np.iinfo(target).max) + 1.0
        if not bool(np.all((whole >= low) & (whole < high))):
            raise ValueError(f"a value that is not finite or does not fit has no {type_name} counterpart")
        return whole.astype(target)
    return value.astype(target)


def input_value(
    name: str, given: Any, type_name: str, shape: tuple[int, ...] | None, what: str = "Input"
) -> Array:
    """A network input as the oracle holds it, checked against its declared type and shape (-1: any length).

    shape: None if the network cannot tell it. what: the tensor's part in messages.

    Any floating array serves a floating input, any integer array whose values fit serves an integer input.
    Raises OracleError.
    """
    raw = np.asarray(given)
    value = widened(raw)
    if shape is not None and (
        value.ndim != len(shape)
        or any(want not in (-1, have) for want, have in zip(shape, value.shape, strict=True))
    ):
        raise OracleError(
            f"{what} {name!r} has shape {value.shape}, but the network declares {shape} (-1: any length)."
        )
    target = held_as(type_name)
    if value.dtype == target:
        return value
    if value.dtype.kind in "iu" and target.kind in "iu":
        fits = np.array_equal(value.astype(target), value)
        if fits:
            return value.astype(target)
    raise OracleError(f"{what} {name!r} is {raw.dtype}, but the network declares {type_name} for it.")
