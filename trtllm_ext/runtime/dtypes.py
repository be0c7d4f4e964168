"""The element types of engine inputs and outputs, by TensorRT's names, as numpy and torch know them."""

from typing import Any

import ml_dtypes
import numpy as np

# TensorRT's DataType name -> numpy dtype. numpy has no bfloat16 or fp8 of its own.
NUMPY_DTYPES: dict[str, np.dtype[Any]] = {
    "FLOAT": np.dtype(np.float32),
    "HALF": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "FP8": np.dtype(ml_dtypes.float8_e4m3fn),
    "INT64": np.dtype(np.int64),
    "INT32": np.dtype(np.int32),
    "INT8": np.dtype(np.int8),
    "UINT8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}

# The same as attributes of the torch module.
TORCH_DTYPES: dict[str, str] = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "FP8": "float8_e4m3fn",
    "INT64": "int64",
    "INT32": "int32",
    "INT8": "int8",
    "UINT8": "uint8",
    "BOOL": "bool",
}


def dtype_name(dtype: Any) -> str:
    """`trt.DataType.FLOAT` -> "FLOAT", of the real and of the embedded module alike."""
    return str(dtype).rsplit(".", 1)[-1]


def numpy_dtype(dtype: Any) -> np.dtype[Any]:
    """The numpy dtype of a TensorRT DataType. Raises KeyError for types that numpy arrays cannot hold (int4, fp4)."""
    return NUMPY_DTYPES[dtype_name(dtype)]


def readable(dtype: Any) -> str:
    """`trt.DataType.HALF` -> "float16": the name that users write."""
    name = dtype_name(dtype)
    return TORCH_DTYPES.get(name, name.lower())
