"""What a case of the GPU benchmarks is, and what all cases are given."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from trtllm_ext.plugin.kernels import Kernels


@dataclass(frozen=True)
class Setting:
    """Where cases run. tiny: sizes that try the harness and measure nothing."""

    kernels: Kernels
    device: str
    tiny: bool
    dtype: torch.dtype = torch.bfloat16

    def random(self, *shape: int, scale: float = 1.0) -> Tensor:
        """Normal random numbers: zeros are faster than real data."""
        return (scale * torch.randn(shape, device=self.device)).to(self.dtype)

    def stream(self) -> Any:
        """The current stream, which a graph's capture changes."""
        return None if self.device == "cpu" else torch.cuda.current_stream()

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """torch.compile for fixed shapes; on the CPU, where nothing is measured, the function itself, to save time."""
        if self.device == "cpu":
            return function
        torch._dynamo.reset()
        return torch.compile(function, fullgraph=True, dynamic=False)


@dataclass(frozen=True)
class Ready:
    """A case with its data.

    calls: of a data set, by variant; error: a variant's against float64; notes: for the JSON.
    """

    calls: dict[str, Callable[[int], object]]
    sets: int
    error: Callable[[str], float]
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A row of a table. begin: makes the data. moved_bytes, operations: the least of one call."""

    name: str
    table: str
    begin: Callable[[], Ready]
    moved_bytes: float = 0.0
    operations: float = 0.0
    tolerance: float = 6e-3
