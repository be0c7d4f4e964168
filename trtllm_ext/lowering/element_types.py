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
UINT8: int = TensorProto.UINT8
BOOL: int = TensorProto.BOOL

NARROW_FLOATS = frozenset({HALF, BF16})
FLOATS = NARROW_FLOATS | {FLOAT}
INTEGERS = frozenset({INT32, INT64})

_ONNX_TYPE = {"FLOAT": FLOAT, "HALF": HALF, "BF16": BF16, "INT32": INT32, "INT64": INT64, "BOOL": BOOL}
_NUMPY_TYPE: dict[int, np.dtype[Any]] = {
    FLOAT: np.dtype(np.float32),
    HALF: np.dtype(np.float16),
    BF16: np.dtype(ml_dtypes.bfloat16),
    INT32: np.dtype(np.int32),
    INT64: np.dtype(np.int64),
    UINT8: np.dtype(np.uint8),
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


def numpy_type_of(onnx_type: int) -> np.dtype[Any]:
    """The numpy dtype (ml_dtypes' for bfloat16) that stores elements of `onnx_type`."""
    return _NUMPY_TYPE[onnx_type]


def onnx_type_of_numpy(dtype: np.dtype[Any]) -> int:
    """ONNX's number of a numpy dtype."""
    return _TYPE_OF_NUMPY[dtype]
