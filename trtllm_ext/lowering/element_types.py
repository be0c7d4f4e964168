"""Element types: TensorRT's names, ONNX's numbers, numpy's dtypes."""

from typing import Any

import ml_dtypes
import numpy as np
from onnx import TensorProto

from trtllm_ext.lowering.errors import LoweringError

FLOAT: int = TensorProto.FLOAT
HALF: int = TensorProto.FLOAT16
BF16: int = TensorProto.BFLOAT16
INT32: int = TensorProto.INT32
INT64: int = TensorProto.INT64
INT8: int = TensorProto.INT8
UINT8: int = TensorProto.UINT8
FP8: int = TensorProto.FLOAT8E4M3FN
DOUBLE: int = TensorProto.DOUBLE
BOOL: int = TensorProto.BOOL

NARROW_FLOATS = frozenset({HALF, BF16})
FLOATS = NARROW_FLOATS | {FLOAT}
INTEGERS = frozenset({INT32, INT64})

_ONNX_TYPE = {
    "FLOAT": FLOAT,
    "HALF": HALF,
    "BF16": BF16,
    "INT32": INT32,
    "INT64": INT64,
    "BOOL": BOOL,
    "INT8": INT8,
    "FP8": FP8,
    # One to a byte between layers; see `unpacked` for how weights come by it.
    "INT4": INT8,
}
_NUMPY_TYPE: dict[int, np.dtype[Any]] = {
    FLOAT: np.dtype(np.float32),
    HALF: np.dtype(np.float16),
    BF16: np.dtype(ml_dtypes.bfloat16),
    INT32: np.dtype(np.int32),
    INT64: np.dtype(np.int64),
    INT8: np.dtype(np.int8),
    UINT8: np.dtype(np.uint8),
    FP8: np.dtype(ml_dtypes.float8_e4m3fn),
    DOUBLE: np.dtype(np.float64),
    BOOL: np.dtype(np.bool_),
}
_TYPE_OF_NUMPY = {numpy_type: onnx_type for onnx_type, numpy_type in _NUMPY_TYPE.items()}


def onnx_type_of(dtype: Any, where: str) -> int:
    """ONNX's number of a `DataType`; raises LoweringError for types that the embedded engine lacks."""
    try:
        return _ONNX_TYPE[dtype.name]
    except KeyError:
        raise LoweringError(
            f"{where} has type {dtype}, which the embedded engine does not support. It supports "
            f"{', '.join(_ONNX_TYPE)}."
        ) from None


def onnx_type_of_port(dtype: Any, where: str) -> int:
    """`onnx_type_of` for inputs and outputs of a network, which may not be INT4."""
    if dtype.name == "INT4":
        raise LoweringError(f"{where} has type {dtype}; 4-bit integers may be weights only. Dequantize them.")
    return onnx_type_of(dtype, where)


def numpy_type_of(onnx_type: int) -> np.dtype[Any]:
    """The numpy dtype (ml_dtypes' for bfloat16) that stores elements of `onnx_type`."""
    return _NUMPY_TYPE[onnx_type]


def onnx_type_of_numpy(dtype: np.dtype[Any]) -> int:
    """ONNX's number of a numpy dtype."""
    return _TYPE_OF_NUMPY[dtype]


def carrier_of(onnx_type: int) -> int:
    """The type in which layers take and give elements of `onnx_type`: float32 for FP8, which few kernels know."""
    return FLOAT if onnx_type == FP8 else onnx_type


def unpacked(packed: np.ndarray[Any, Any], count: int) -> np.ndarray[Any, Any]:
    """`count` signed 4-bit integers, two in a byte and the first in the lower half, as int8."""
    halves = np.stack([packed << 4, packed & 0xF0], axis=-1).reshape(-1)[:count]
    return halves.view(np.int8) >> 4
