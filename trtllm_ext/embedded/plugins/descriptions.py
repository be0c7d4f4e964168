"""What a plugin is told of a tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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


def _dims(slot: str, doc: str) -> Any:
    return property(
        lambda self: getattr(self, slot), lambda self, dims: setattr(self, slot, Dims(dims)), doc=doc
    )


class DynamicPluginTensorDesc:
    """A tensor with the range of its shapes: `desc.dims` has -1 where a length is known at run time only."""

    __slots__ = ("_max", "_min", "_opt", "desc")
    min = _dims("_min", "The least lengths.")
    opt = _dims("_opt", "The lengths to be fastest at.")
    max = _dims("_max", "The largest lengths.")

    def __init__(self) -> None:
        self.desc = PluginTensorDesc()
        self._min = self._opt = self._max = Dims()


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
