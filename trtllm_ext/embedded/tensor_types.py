"""Element types of an engine's inputs and outputs: by their name in a plan, by TensorRT's type, by ONNX's number."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from trtllm_ext.embedded.enums import DataType
from trtllm_ext.embedded.types import storage_dtype
from trtllm_ext.errors import BuildError, EngineError


@dataclass(frozen=True)
class ElementType:
    """One type of elements. `onnx_type` is its number in TensorProto.DataType, `onnx_name` ONNX Runtime's name."""

    name: str
    dtype: DataType
    onnx_type: int
    onnx_name: str

    @property
    def storage(self) -> np.dtype[Any]:
        """The numpy type of its elements in memory."""
        return storage_dtype(self.dtype)


_TYPES = (
    ElementType("float32", DataType.FLOAT, 1, "tensor(float)"),
    ElementType("uint8", DataType.UINT8, 2, "tensor(uint8)"),
    ElementType("int8", DataType.INT8, 3, "tensor(int8)"),
    ElementType("int32", DataType.INT32, 6, "tensor(int32)"),
    ElementType("int64", DataType.INT64, 7, "tensor(int64)"),
    ElementType("bool", DataType.BOOL, 9, "tensor(bool)"),
    ElementType("float16", DataType.HALF, 10, "tensor(float16)"),
    ElementType("bfloat16", DataType.BF16, 16, "tensor(bfloat16)"),
    ElementType("fp8", DataType.FP8, 17, "tensor(float8e4m3fn)"),
)
_BY_NAME = {element.name: element for element in _TYPES}
_BY_NUMBER = {element.onnx_type: element for element in _TYPES}
_BY_DTYPE = {element.dtype: element for element in _TYPES}
_BY_ONNX_NAME = {element.onnx_name: element for element in _TYPES}


def element_type_named(name: str) -> ElementType:
    """The type with this name in a plan. Raises EngineError for an unknown one."""
    try:
        return _BY_NAME[name]
    except KeyError:
        raise EngineError(
            f"the engine has a tensor of type {name!r}; this version knows {', '.join(_BY_NAME)}."
        ) from None


def element_type_numbered(onnx_type: int) -> ElementType:
    """The type of this number in ONNX. Raises KeyError for one that no weights of an engine have."""
    return _BY_NUMBER[onnx_type]


def element_type_named_by_onnx(name: str) -> ElementType:
    """The type that ONNX Runtime calls so. Raises EngineError if values between steps cannot have it."""
    try:
        return _BY_ONNX_NAME[name]
    except KeyError:
        raise EngineError(
            f"a step of the engine has a value of type {name!r}; this version knows {', '.join(_BY_ONNX_NAME)}."
        ) from None


def element_type_of(dtype: DataType, tensor: str) -> ElementType:
    """The type of an input or output. Raises BuildError if engines cannot have it there."""
    try:
        return _BY_DTYPE[dtype]
    except KeyError:
        raise BuildError(
            f"tensor {tensor!r} has type {dtype}; inputs and outputs of an engine may be {', '.join(_BY_NAME)}."
        ) from None
