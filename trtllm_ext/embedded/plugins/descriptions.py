"""What a plugin is told of a tensor."""

from __future__ import annotations

from collections.abc import Sequence

from trtllm_ext.embedded.enums import DataType, TensorFormat
from trtllm_ext.embedded.types import Dims


class PluginTensorDesc:
    """Shape, type and format of a tensor; `scale` is only for INT8 in networks quantized implicitly."""

    __slots__ = ("_dims", "format", "scale", "type")

    def __init__(self) -> None:
        self._dims = Dims()
        self.type = DataType.FLOAT
        self.format = TensorFormat.LINEAR
        self.scale = 0.0

    @property
    def dims(self) -> Dims:
        """The shape."""
        return self._dims

    @dims.setter
    def dims(self, dims: Dims | Sequence[int]) -> None:
        self._dims = Dims(dims)


class DynamicPluginTensorDesc:
    """A tensor with the range of its shapes: `desc.dims` has -1 where a length is known at run time only."""

    __slots__ = ("_max", "_min", "_opt", "desc")

    def __init__(self) -> None:
        self.desc = PluginTensorDesc()
        self._min = self._opt = self._max = Dims()

    @property
    def min(self) -> Dims:
        """The least lengths."""
        return self._min

    @min.setter
    def min(self, dims: Dims | Sequence[int]) -> None:
        self._min = Dims(dims)

    @property
    def opt(self) -> Dims:
        """The lengths to be fastest at."""
        return self._opt

    @opt.setter
    def opt(self, dims: Dims | Sequence[int]) -> None:
        self._opt = Dims(dims)

    @property
    def max(self) -> Dims:
        """The largest lengths."""
        return self._max

    @max.setter
    def max(self, dims: Dims | Sequence[int]) -> None:
        self._max = Dims(dims)


def described(dtype: DataType, shape: Sequence[int]) -> PluginTensorDesc:
    """A tensor in row-major order."""
    desc = PluginTensorDesc()
    desc.type, desc.dims, desc.scale = dtype, Dims(shape), -1.0
    return desc


def described_range(
    dtype: DataType, shape: Sequence[int], low: Sequence[int], opt: Sequence[int], high: Sequence[int]
) -> DynamicPluginTensorDesc:
    """A tensor in row-major order with the range of its shapes."""
    desc = DynamicPluginTensorDesc()
    desc.desc = described(dtype, shape)
    desc.min, desc.opt, desc.max = Dims(low), Dims(opt), Dims(high)
    return desc
