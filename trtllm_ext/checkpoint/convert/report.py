"""What a conversion did with every weight of its source."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trtllm_ext.checkpoint.config import ModelConfig


@dataclass(frozen=True)
class ConvertedWeight:
    """A weight of the checkpoint, and the source weights whose rows it holds, in order."""

    name: str
    shape: tuple[int, ...]
    sources: tuple[str, ...]


@dataclass(frozen=True)
class DroppedWeight:
    """A source weight that the model has no use for, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class ConversionReport:
    """Every source weight is in exactly one of `converted[...].sources` and `dropped`.

    num_bytes: size of the weight files written.
    """

    model_dir: Path
    output_dir: Path
    source_architecture: str
    config: ModelConfig
    converted: tuple[ConvertedWeight, ...]
    dropped: tuple[DroppedWeight, ...]
    num_bytes: int
