"""Which part of a model each rank holds, with TensorRT-LLM's fields and arithmetic.

Ranks are numbered with tensor parallelism fastest, then context, then pipeline parallelism:
`rank = (pp_rank * cp_size + cp_rank) * tp_size + tp_rank`.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingType
from dataclasses import asdict, dataclass, fields
from typing import Any

from trtllm_ext.errors import ConfigError


@dataclass(frozen=True)
class Mapping:
    """The sizes of each kind of parallelism, and one rank's place in them.

    world_size: number of ranks, equal to tp_size * cp_size * pp_size.
    rank: this rank, 0 <= rank < world_size.
    gpus_per_node: devices of one host; node_rank and local_rank follow from it.
    moe_tp_size, moe_ep_size: how a mixture of experts splits over the tensor-parallel ranks; -1 means derived.

    Raises ConfigError for sizes that do not multiply up to world_size and for a rank outside it.
    """

    world_size: int = 1
    rank: int = 0
    gpus_per_node: int = 8
    cp_size: int = 1
    tp_size: int = 1
    pp_size: int = 1
    moe_tp_size: int = -1
    moe_ep_size: int = -1

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise ConfigError(f"Mapping {field.name}={value!r} is not an integer.")
        for name in ("world_size", "gpus_per_node", "cp_size", "tp_size", "pp_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"Mapping {name}={getattr(self, name)} must be at least 1.")
        product = self.tp_size * self.cp_size * self.pp_size
        if product != self.world_size:
            raise ConfigError(
                f"Mapping world_size={self.world_size} is not tp_size * cp_size * pp_size = "
                f"{self.tp_size} * {self.cp_size} * {self.pp_size} = {product}. Set world_size={product}."
            )
        if not 0 <= self.rank < self.world_size:
            raise ConfigError(f"Mapping rank={self.rank} is outside 0..{self.world_size - 1}.")
        self._derive_moe_sizes()

    def _derive_moe_sizes(self) -> None:
        moe_tp, moe_ep = self.moe_tp_size, self.moe_ep_size
        for name, size in (("moe_tp_size", moe_tp), ("moe_ep_size", moe_ep)):
            if size != -1 and (size < 1 or self.tp_size % size):
                raise ConfigError(
                    f"Mapping {name}={size} does not divide tp_size={self.tp_size}; -1 derives it."
                )
        if moe_tp == -1 and moe_ep == -1:
            moe_tp, moe_ep = self.tp_size, 1
        elif moe_tp == -1:
            moe_tp = self.tp_size // moe_ep
        elif moe_ep == -1:
            moe_ep = self.tp_size // moe_tp
        if moe_tp * moe_ep != self.tp_size:
            raise ConfigError(
                f"Mapping moe_tp_size * moe_ep_size = {moe_tp} * {moe_ep} is not tp_size={self.tp_size}."
            )
        object.__setattr__(self, "moe_tp_size", moe_tp)
        object.__setattr__(self, "moe_ep_size", moe_ep)

    @property
    def tp_rank(self) -> int:
        return self.rank % self.tp_size

    @property
    def cp_rank(self) -> int:
        return self.rank % (self.tp_size * self.cp_size) // self.tp_size

    @property
    def pp_rank(self) -> int:
        return self.rank // (self.tp_size * self.cp_size)

    @property
    def moe_tp_rank(self) -> int:
        return self.tp_rank // self.moe_ep_size

    @property
    def moe_ep_rank(self) -> int:
        return self.tp_rank % self.moe_ep_size

    @property
    def tp_group(self) -> list[int]:
        """The ranks that hold the other shards of this rank's layers: consecutive ones."""
        first = self.rank - self.tp_rank
        return list(range(first, first + self.tp_size))

    @property
    def cp_group(self) -> list[int]:
        first = self.rank - self.cp_rank * self.tp_size
        return list(range(first, first + self.cp_size * self.tp_size, self.tp_size))

    @property
    def pp_group(self) -> list[int]:
        stride = self.tp_size * self.cp_size
        return list(range(self.rank % stride, self.world_size, stride))

    @property
    def node_rank(self) -> int:
        return self.rank // self.gpus_per_node

    @property
    def local_rank(self) -> int:
        return self.rank % self.gpus_per_node

    def has_tp(self) -> bool:
        return self.tp_size > 1

    def has_pp(self) -> bool:
        return self.pp_size > 1

    def is_first_pp_rank(self) -> bool:
        return self.pp_rank == 0

    def is_last_pp_rank(self) -> bool:
        return self.pp_rank == self.pp_size - 1

    def prev_pp_rank(self) -> int:
        """The rank one pipeline stage earlier, around the end."""
        return (self.rank - self.tp_size * self.cp_size) % self.world_size

    def next_pp_rank(self) -> int:
        return (self.rank + self.tp_size * self.cp_size) % self.world_size

    def pp_layers(self, num_layers: int) -> list[int]:
        """The layers of this pipeline stage; the first stages take what does not divide evenly."""
        share, left = divmod(num_layers, self.pp_size)
        first = self.pp_rank * share + min(self.pp_rank, left)
        return list(range(first, first + share + (self.pp_rank < left)))

    def ep_experts(self, num_experts: int) -> list[int]:
        """The experts that this rank holds.

        Raises ConfigError unless moe_ep_size divides num_experts.
        """
        if num_experts % self.moe_ep_size:
            raise ConfigError(f"{num_experts} experts do not split over moe_ep_size={self.moe_ep_size}.")
        share = num_experts // self.moe_ep_size
        return list(range(self.moe_ep_rank * share, (self.moe_ep_rank + 1) * share))

    def to_dict(self) -> dict[str, int]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: MappingType[str, Any]) -> Mapping:
        """Read a mapping from its JSON form; a field that is not there keeps its default.

        Raises ConfigError for a field that does not exist.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(data) - set(known))
        if unknown:
            raise ConfigError(f"Unknown mapping field(s) {', '.join(unknown)}; known are {', '.join(known)}.")
        return cls(**data)
