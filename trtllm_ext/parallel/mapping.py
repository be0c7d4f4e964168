"""Which part of a model each rank holds, with TensorRT-LLM's fields and arithmetic.

Ranks are numbered with tensor parallelism fastest, then context, then pipeline parallelism:
`rank = (pp_rank * cp_size + cp_rank) * tp_size + tp_rank`.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingType
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from trtllm_ext.errors import ConfigError


@dataclass(frozen=True)
class Mapping:
    """The sizes of each kind of parallelism, and one rank's place in them.

    world_size: number of ranks, equal to tp_size * cp_size * pp_size.
    rank: this rank, 0 <= rank < world_size.
    gpus_per_node: devices of one host; node_rank and local_rank follow from it.
    moe_tp_size, moe_ep_size: how a mixture of experts splits over the tensor-parallel ranks, each expert into
    moe_tp_size shards, the experts over moe_ep_size ranks; -1 means derived.
    pp_partition: how many layers each pipeline stage holds; None for shares as equal as possible.

    Raises ConfigError for sizes that do not multiply up to world_size, for a rank outside it, for a partition without
    a number for each stage, and for experts over ranks together with context parallelism, as TensorRT-LLM does.
    """

    world_size: int = 1
    rank: int = 0
    gpus_per_node: int = 8
    cp_size: int = 1
    tp_size: int = 1
    pp_size: int = 1
    moe_tp_size: int = -1
    moe_ep_size: int = -1
    pp_partition: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "pp_partition" and (isinstance(value, bool) or not isinstance(value, int)):
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
        if self.pp_partition is not None:
            self._check_partition(self.pp_partition)

    def _check_partition(self, partition: Sequence[int]) -> None:
        if isinstance(partition, str) or not isinstance(partition, Sequence):
            raise ConfigError(f"Mapping pp_partition={partition!r} is not a list of numbers of layers.")
        wrong = [
            count for count in partition if isinstance(count, bool) or not isinstance(count, int) or count < 0
        ]
        if wrong or len(partition) != self.pp_size:
            raise ConfigError(
                f"Mapping pp_partition={list(partition)} is not a number of layers for each of pp_size={self.pp_size} "
                f"stages."
            )
        object.__setattr__(self, "pp_partition", tuple(partition))

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
        if moe_ep > 1 and self.cp_size > 1:
            raise ConfigError(
                f"Mapping moe_ep_size={moe_ep} and cp_size={self.cp_size}: experts are not spread over ranks together "
                f"with context parallelism. Set one of them to 1."
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
        return self._neighbours(self.tp_rank, self.tp_size, 1)

    @property
    def cp_group(self) -> list[int]:
        return self._neighbours(self.cp_rank, self.cp_size, self.tp_size)

    @property
    def pp_group(self) -> list[int]:
        return self._neighbours(self.pp_rank, self.pp_size, self.tp_size * self.cp_size)

    @property
    def moe_tp_group(self) -> list[int]:
        """The ranks that hold the other shards of this rank's experts."""
        return self._neighbours(self.moe_tp_rank, self.moe_tp_size, self.moe_ep_size)

    @property
    def moe_ep_group(self) -> list[int]:
        """The ranks that hold the same shard of the other experts."""
        return self._neighbours(self.moe_ep_rank, self.moe_ep_size, 1)

    def _neighbours(self, place: int, size: int, stride: int) -> list[int]:
        """The group of `size` ranks, `stride` apart, in which this rank has a place."""
        first = self.rank - place * stride
        return list(range(first, first + size * stride, stride))

    @property
    def tp_groups(self) -> list[list[int]]:
        """Every group of its kind, each rank in one of them, by their first ranks; so the other `_groups`."""
        return self._all("tp_group")

    @property
    def cp_groups(self) -> list[list[int]]:
        return self._all("cp_group")

    @property
    def pp_groups(self) -> list[list[int]]:
        return self._all("pp_group")

    @property
    def moe_tp_groups(self) -> list[list[int]]:
        return self._all("moe_tp_group")

    @property
    def moe_ep_groups(self) -> list[list[int]]:
        return self._all("moe_ep_group")

    def _all(self, name: str) -> list[list[int]]:
        return sorted(
            group
            for rank in range(self.world_size)
            if (group := getattr(replace(self, rank=rank), name))[0] == rank
        )

    @property
    def node_rank(self) -> int:
        return self.rank // self.gpus_per_node

    @property
    def local_rank(self) -> int:
        return self.rank % self.gpus_per_node

    def get_node_rank(self, rank: int) -> int:
        """The host of any rank."""
        return rank // self.gpus_per_node

    def get_local_rank(self, rank: int) -> int:
        return rank % self.gpus_per_node

    def is_multi_node(self) -> bool:
        return self.world_size > self.gpus_per_node

    def has_tp(self) -> bool:
        return self.tp_size > 1

    def has_cp(self) -> bool:
        return self.cp_size > 1

    def has_pp(self) -> bool:
        return self.pp_size > 1

    def has_moe_tp(self) -> bool:
        return self.moe_tp_size > 1

    def has_moe_ep(self) -> bool:
        return self.moe_ep_size > 1

    def is_first_cp_rank(self) -> bool:
        return self.cp_rank == 0

    def is_last_cp_rank(self) -> bool:
        return self.cp_rank == self.cp_size - 1

    def prev_cp_rank(self) -> int:
        """The rank before this one in its context-parallel group, around the end."""
        return self.cp_group[self.cp_rank - 1]

    def next_cp_rank(self) -> int:
        return self.cp_group[(self.cp_rank + 1) % self.cp_size]

    def is_first_pp_rank(self) -> bool:
        return self.pp_rank == 0

    def is_last_pp_rank(self) -> bool:
        return self.pp_rank == self.pp_size - 1

    def is_second_last_pp_rank(self) -> bool:
        return self.pp_rank == self.pp_size - 2

    def prev_pp_rank(self) -> int:
        """The rank one pipeline stage earlier, around the end."""
        return (self.rank - self.tp_size * self.cp_size) % self.world_size

    def next_pp_rank(self) -> int:
        return (self.rank + self.tp_size * self.cp_size) % self.world_size

    def pp_layers(self, num_layers: int) -> list[int]:
        """The layers of this pipeline stage; without pp_partition the first stages take what does not divide evenly.

        Raises ConfigError for a pp_partition of another number of layers.
        """
        if self.pp_partition is not None:
            if sum(self.pp_partition) != num_layers:
                raise ConfigError(
                    f"Mapping pp_partition={list(self.pp_partition)} holds {sum(self.pp_partition)} layers, not "
                    f"{num_layers}."
                )
            before = sum(self.pp_partition[: self.pp_rank])
            return list(range(before, before + self.pp_partition[self.pp_rank]))
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

    def to_dict(self) -> dict[str, Any]:
        """Its JSON form; pp_partition is there only if it is given."""
        data = asdict(self)
        partition = data.pop("pp_partition")
        return data if partition is None else {**data, "pp_partition": list(partition)}

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
