"""Pointers, strides and types of whatever holds numbers: torch tensors, numpy arrays, CUDA arrays of others."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from trtllm_ext.errors import InputError
from trtllm_ext.plugin.c_interface import Type

# What torch and numpy call the types of the C interface.
_TYPES = {
    "float32": Type.FLOAT32,
    "float16": Type.FLOAT16,
    "bfloat16": Type.BFLOAT16,
    "int8": Type.INT8,
    "float8_e4m3fn": Type.FLOAT8_E4M3,
}
# Type strings of the array interfaces; they have none for bfloat16 and float8.
_TYPESTRS = {"<f4": "float32", "<f2": "float16", "|i1": "int8"}


@dataclass(frozen=True)
class Matrix:
    """Rows in memory. pointer: of the first element. stride: elements from a row to the next; device: None for host."""

    pointer: int
    type: Type
    rows: int
    width: int
    stride: int
    device: str | None = None


def type_of(name: object) -> Type:
    """The C interface's type of 'float16', `torch.float16` or `numpy.float16`. Raises InputError for others."""
    text = getattr(name, "name", None) or getattr(name, "__name__", None) or str(name)
    found = _TYPES.get(text.removeprefix("torch."))
    if found is None:
        raise InputError(f"the kernels have no type {name}; they have {', '.join(_TYPES)}.")
    return found


def matrix(value: Any, role: str) -> Matrix:
    """`value`, of 1 or 2 dimensions, as rows: a vector is one row.

    Nothing is copied: the caller keeps `value` alive until the work on it is done.
    role: what to call it in errors. Raises InputError for other types and where neighbours in a row are apart.
    """
    pointer, kind, shape, strides, device = _parts(value, role)
    if len(shape) not in (1, 2):
        raise InputError(
            f"{role} has {len(shape)} dimensions, shape {shape}; expected (tokens, width) or (width,)."
        )
    width = shape[-1]
    if width > 1 and strides[-1] != 1:
        raise InputError(
            f"{role} has strides {strides} (in elements); neighbours in a row must lie next to each other. "
            "Pass a contiguous copy."
        )
    rows = shape[0] if len(shape) == 2 else 1
    # The stride of a dimension of one row means nothing; libraries put anything there.
    stride = strides[0] if rows > 1 and len(shape) == 2 else width
    return Matrix(pointer, kind, rows, width, stride, device)


def _parts(value: Any, role: str) -> tuple[int, Type, tuple[int, ...], tuple[int, ...], str | None]:
    if hasattr(value, "data_ptr"):
        device = None if value.device.type == "cpu" else str(value.device)
        return value.data_ptr(), type_of(value.dtype), tuple(value.shape), tuple(value.stride()), device
    if hasattr(value, "ctypes"):
        strides = tuple(step // value.itemsize for step in value.strides)
        return value.ctypes.data, type_of(value.dtype), tuple(value.shape), strides, None
    interface = getattr(value, "__cuda_array_interface__", None)
    if interface is None:
        raise InputError(
            f"{role} is a {type(value).__name__}; expected a torch tensor, a numpy or a CUDA array."
        )
    return _cuda_array(interface, role)


def _cuda_array(
    interface: dict[str, Any], role: str
) -> tuple[int, Type, tuple[int, ...], tuple[int, ...], str | None]:
    kind = _TYPESTRS.get(interface["typestr"])
    if kind is None:
        raise InputError(
            f"{role} has type {interface['typestr']}; a CUDA array may have {', '.join(_TYPESTRS.values())}. "
            "Pass a torch tensor for other types."
        )
    shape = tuple(interface["shape"])
    itemsize = int(interface["typestr"][2:])
    strides = interface.get("strides")
    if strides is None:
        steps = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    else:
        steps = tuple(step // itemsize for step in strides)
    return int(interface["data"][0]), _TYPES[kind], shape, steps, "cuda"


def row_pointer(value: Any, role: str, like: Matrix, *, width: int | None = None) -> int | None:
    """The pointer of a vector of `like`'s type and width (or `width`); None for None. Raises InputError otherwise."""
    if value is None:
        return None
    return _fitting(value, role, like.type, 1, like.width if width is None else width, like.device).pointer


def rows_of(
    value: Any, role: str, like: Matrix, *, width: int | None = None, kind: Type | None = None
) -> Matrix:
    """A matrix of `like`'s number of rows, type (or `kind`) and width (or `width`). Raises InputError otherwise."""
    return _fitting(
        value, role, kind or like.type, like.rows, like.width if width is None else width, like.device
    )


def _fitting(value: Any, role: str, kind: Type, rows: int, width: int, device: str | None) -> Matrix:
    found = matrix(value, role)
    if (found.type, found.rows, found.width) != (kind, rows, width):
        raise InputError(
            f"{role} is {found.type.name.lower()} ({found.rows}, {found.width}); "
            f"expected {kind.name.lower()} ({rows}, {width})."
        )
    if (found.device is None) != (device is None):
        raise InputError(
            f"{role} is on {found.device or 'the host'}, and other arguments on {device or 'the host'}."
        )
    return found
