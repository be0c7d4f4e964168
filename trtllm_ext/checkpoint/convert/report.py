"""What a conversion did with every weight of its source."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trtllm_ext.checkpoint.config import ModelConfig


@dataclass(frozen=True)
class ConvertedWeight:
    """A weight of the checkpoint with its whole shape, and the source weights that it is made of, in order.

    A source weight is used in parts where several weights name it: gate and up stored as one, or tied weights.
    """

    name: str
    shape: tuple[int, ...]
    sources: tuple[str, ...]


@dataclass(frozen=True)
class DroppedWeight:
    """A source weight that the model has no use for, and why; of one used in part, name[the rest]."""

    name: str
    reason: str


@dataclass(frozen=True)
class ConversionReport:
    """Every source weight is in `converted[...].sources`, as a whole, or in `dropped`.

    config: of rank 0. num_bytes: size of the weight files written, of all ranks.
    """

    model_dir: Path
    output_dir: Path
    source_architecture: str
    config: ModelConfig
    converted: tuple[ConvertedWeight, ...]
    dropped: tuple[DroppedWeight, ...]
    num_bytes: int

    @property
    def bytes_per_rank(self) -> int:
        """Size of one rank's weight file; they differ by the digits of a rank at most."""
        return self.num_bytes // self.config.mapping.world_size

    def dropped_by_reason(self) -> dict[str, tuple[str, ...]]:
        """The names of the dropped weights for each reason, both in the order in which they were dropped."""
        reasons: dict[str, list[str]] = {}
        for weight in self.dropped:
            reasons.setdefault(weight.reason, []).append(weight.name)
        return {reason: tuple(names) for reason, names in reasons.items()}
