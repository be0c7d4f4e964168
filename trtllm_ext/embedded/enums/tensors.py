"""Enumerations of tensors; names and values are those of TensorRT 10.14."""

from trtllm_ext.embedded.enums.base import NativeEnum


class DataType(NativeEnum):
    """Element type of a tensor or of weights."""

    FLOAT = 0
    HALF = 1
    INT8 = 2
    INT32 = 3
    BOOL = 4
    UINT8 = 5
    FP8 = 6
    BF16 = 7
    INT64 = 8
    INT4 = 9
    FP4 = 10
    E8M0 = 11

    @property
    def itemsize(self) -> float:
        """Bytes of one element: a whole number but for the 4-bit types, which take half a byte."""
        return _ITEMSIZE[self]


class TensorFormat(NativeEnum):
    """Memory layout of an input or output; the embedded engine has only LINEAR."""

    LINEAR = 0
    CHW2 = 1
    HWC8 = 2
    CHW4 = 3
    CHW16 = 4
    CHW32 = 5
    DHWC8 = 6
    CDHW32 = 7
    HWC = 8
    DLA_LINEAR = 9
    DLA_HWC4 = 10
    HWC16 = 11
    DHWC = 12


class TensorLocation(NativeEnum):
    """Where a tensor's memory is."""

    DEVICE = 0
    HOST = 1


class TensorIOMode(NativeEnum):
    """Whether a named tensor of an engine is an input, an output, or neither."""

    NONE = 0
    INPUT = 1
    OUTPUT = 2


class WeightsRole(NativeEnum):
    """What weights are to their layer."""

    KERNEL = 0
    BIAS = 1
    SHIFT = 2
    SCALE = 3
    CONSTANT = 4
    ANY = 5


_ITEMSIZE: dict[DataType, float] = {
    DataType.FLOAT: 4,
    DataType.HALF: 2,
    DataType.BF16: 2,
    DataType.INT8: 1,
    DataType.INT32: 4,
    DataType.INT64: 8,
    DataType.BOOL: 1,
    DataType.UINT8: 1,
    DataType.FP8: 1,
    DataType.E8M0: 1,
    DataType.INT4: 0.5,
    DataType.FP4: 0.5,
}
