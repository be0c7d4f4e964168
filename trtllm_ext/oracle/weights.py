"""Reading the numbers behind an IConstantLayer."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from trtllm_ext.oracle.errors import OracleError
from trtllm_ext.oracle.values import STORED_AS, Array, member_name


def stored_values(weights: Any, known: Any = None) -> Array:
    """The elements of `IConstantLayer.weights` as a flat numpy array of their stored type.

    weights: a numpy array, or a `trt.Weights`, whose buffer is read where it lies (bfloat16 becomes
    `ml_dtypes.bfloat16`). known: the same from elsewhere, for types that the library gives no array of.
    No copy; valid while the network's weights live. Raises OracleError.
    """
    if isinstance(weights, np.ndarray):
        return weights.reshape(-1)
    as_numpy = getattr(weights, "numpy", None)
    viewed = as_numpy() if callable(as_numpy) else None
    if isinstance(viewed, np.ndarray):
        return viewed.reshape(-1)
    if member_name(weights.dtype) == "INT4" and hasattr(weights, "packed_bytes"):
        return _four_bits(weights.packed_bytes(), int(weights.size))
    if known is not None and not getattr(weights, "address", None):
        flat = np.asarray(known).reshape(-1)
        is_packed = member_name(weights.dtype) == "INT4" and flat.dtype == np.uint8
        return _four_bits(flat, int(weights.size)) if is_packed else flat
    return _behind_pointer(weights)


def _four_bits(packed: Array, count: int) -> Array:
    """Signed 4-bit integers, two in a byte, the first in the lower half."""
    numbers = np.empty(2 * packed.size, np.int8)
    numbers[0::2], numbers[1::2] = packed % 16, packed // 16
    return np.where(numbers < 8, numbers, numbers - 16).astype(np.int8)[:count]


def _behind_pointer(weights: Any) -> Array:
    type_name = member_name(weights.dtype)
    count = int(weights.size)
    if type_name not in STORED_AS:
        raise OracleError(f"Weights of type {type_name} cannot be read. Readable: {', '.join(STORED_AS)}.")
    stored = STORED_AS[type_name]
    if count == 0:
        return np.empty(0, stored)
    address = getattr(weights, "address", None)
    if not address:
        raise OracleError(
            f"{count} weights of type {type_name} give neither a numpy view nor an address, so they cannot "
            "be read. Give them by the name of their layer: weights={name: array}."
        )
    buffer = (ctypes.c_uint8 * (count * stored.itemsize)).from_address(int(address))
    return np.ctypeslib.as_array(buffer).view(stored)
