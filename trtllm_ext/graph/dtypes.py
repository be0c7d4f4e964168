"""Element types: the strings that users write, TensorRT's DataType, and numpy's dtypes."""

import math
from typing import Any

import numpy as np

from trtllm_ext.backend import tensorrt
from trtllm_ext.errors import GraphError
from trtllm_ext.runtime.dtypes import NUMPY_DTYPES, dtype_name, numpy_dtype, readable

_MEMBERS = {
    "float32": "FLOAT",
    "float16": "HALF",
    "bfloat16": "BF16",
    "int64": "INT64",
    "int32": "INT32",
    "int8": "INT8",
    "bool": "BOOL",
    "fp8": "FP8",
}
_FROM_NUMPY = {numpy: name for name, numpy in NUMPY_DTYPES.items()}
_FLOATS = ("FLOAT", "HALF", "BF16")
_INTS = ("INT32", "INT64")

# Where torch says it otherwise.
_TORCH_NAMES = {"fp8": "float8_e4m3fn"}

Scalar = bool | int | float


def str_dtype_to_trt(dtype: str) -> Any:
    """`"float16"` -> `trt.DataType.HALF`.

    Raises GraphError for a name that is not one of float32, float16, bfloat16, int64, int32, int8, bool, fp8, or for
    a type that the TensorRT in use does not have.
    """
    if dtype not in _MEMBERS:
        raise GraphError(f"dtype {dtype!r} is not known; it is one of {', '.join(_MEMBERS)}.")
    return _member(_MEMBERS[dtype])


def str_dtype_to_torch(dtype: str) -> Any:
    """`"float16"` -> `torch.float16`. Raises GraphError for a name that `str_dtype_to_trt` does not know."""
    import torch

    if dtype not in _MEMBERS:
        raise GraphError(f"dtype {dtype!r} is not known; it is one of {', '.join(_MEMBERS)}.")
    return getattr(torch, _TORCH_NAMES.get(dtype, dtype))


def torch_dtype_to_trt(dtype: Any) -> Any:
    """`torch.float16` -> `trt.DataType.HALF`. Raises GraphError for a type that TensorRT has no tensors of."""
    name = str(dtype).removeprefix("torch.")
    ours = {theirs: ours for ours, theirs in _TORCH_NAMES.items()}.get(name, name)
    if ours not in _MEMBERS:
        raise GraphError(f"{dtype} has no TensorRT type; convert to one of {', '.join(_MEMBERS)} first.")
    return str_dtype_to_trt(ours)


def to_trt_dtype(dtype: Any) -> Any:
    """A DataType from a string or a DataType. Raises TypeError for anything else."""
    if isinstance(dtype, str):
        return str_dtype_to_trt(dtype)
    if isinstance(dtype, tensorrt().DataType):
        return dtype
    raise TypeError(
        f"dtype is a {type(dtype).__name__} ({dtype!r}); it takes a string such as 'float16' or a tensorrt.DataType."
    )


def np_dtype_to_trt(dtype: Any) -> Any:
    """`np.float16` -> `trt.DataType.HALF`. Raises GraphError for a dtype that TensorRT has no tensors of."""
    name = _FROM_NUMPY.get(np.dtype(dtype))
    if name is None:
        raise GraphError(
            f"numpy dtype {np.dtype(dtype)} has no TensorRT type; convert the array to one of "
            f"{', '.join(str(known) for known in _FROM_NUMPY)}."
        )
    return _member(name)


def trt_dtype_to_np(dtype: Any) -> np.dtype[Any]:
    """`trt.DataType.HALF` -> `np.dtype("float16")`; bfloat16 and fp8 are those of `ml_dtypes`."""
    return numpy_dtype(dtype)


def index_dtype() -> Any:
    """The type of shapes and indices: int64, or int32 on a TensorRT without int64."""
    return getattr(tensorrt().DataType, "INT64", tensorrt().DataType.INT32)


def is_float(dtype: Any) -> bool:
    """Whether a DataType is float32, float16 or bfloat16."""
    return dtype_name(dtype) in _FLOATS


def is_int(dtype: Any) -> bool:
    """Whether a DataType is int32 or int64."""
    return dtype_name(dtype) in _INTS


def scalar_array(value: Scalar, dtype: Any, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """`value` as a one-element array of `dtype` and `shape`.

    A float is rounded to the nearest of its type. Raises GraphError when the value would turn into something else:
    a fraction in an integer type, an integer out of range, a finite number that becomes infinite.
    """
    numpy = trt_dtype_to_np(dtype)
    with np.errstate(over="ignore"):
        fits = _fits(value, numpy)
    if not fits:
        raise GraphError(
            f"the scalar {value!r} does not fit {readable(dtype)}, the type of the other operand; cast that operand "
            "first, or give a scalar that its type can hold."
        )
    return np.full(shape, value, dtype=numpy)


def _fits(value: Scalar, numpy: np.dtype[Any]) -> bool:
    if numpy.kind == "b":
        return value in (0, 1)
    if numpy.kind in "iu":
        info = np.iinfo(numpy)
        return math.isfinite(value) and value == int(value) and info.min <= value <= info.max
    try:
        return not math.isfinite(value) or bool(
            np.isfinite(np.full((), value, dtype=numpy).astype(np.float64))
        )
    except OverflowError:
        return False


def _member(name: str) -> Any:
    member = getattr(tensorrt().DataType, name, None)
    if member is None:
        version = getattr(tensorrt(), "__version__", "in use")
        raise GraphError(
            f"TensorRT {version} has no type {name}; use one that it has, such as float32 or float16."
        )
    return member
