"""Name, type and shape of one input or output."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TensorInfo:
    """`dtype` is a `trt.DataType`; `shape` has -1 where a dimension is not fixed."""

    name: str
    dtype: Any
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(dim) for dim in self.shape))
