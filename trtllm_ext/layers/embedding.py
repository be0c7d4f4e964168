"""Rows of a table by index."""

from __future__ import annotations

from trtllm_ext.errors import ConfigError
from trtllm_ext.graph import Module, Parameter, Tensor, functional
from trtllm_ext.layers.tensor_parallel import check_group, shard_size


class Embedding(Module):
    """weight[x]: a vector of embedding_dim for each index.

    weight: (num_embeddings, embedding_dim), split over tp_size ranks along sharding_dim.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        dtype: str | None = None,
        tp_size: int = 1,
        tp_group: list[int] | None = None,
        sharding_dim: int = 0,
    ) -> None:
        super().__init__()
        if sharding_dim not in (0, 1):
            raise ConfigError(f"sharding_dim={sharding_dim} must be 0 (rows) or 1 (columns).")
        self.tp_size = tp_size
        self.tp_group = check_group(tp_group, tp_size)
        self.sharding_dim = sharding_dim
        rows = shard_size(num_embeddings, tp_size if sharding_dim == 0 else 1, "num_embeddings")
        columns = shard_size(embedding_dim, tp_size if sharding_dim == 1 else 1, "embedding_dim")
        self.weight = Parameter(shape=(rows, columns), dtype=dtype or "float32")

    def forward(self, x: Tensor) -> Tensor:
        """x: int32 or int64 indices of any shape; returns (*x.shape, embedding_dim)."""
        if self.tp_size > 1:
            raise ConfigError(
                f"Embedding with tp_size={self.tp_size} holds one shard of its table, and looking up in shards is not "
                "available: a table is whole on every rank. Use tp_size=1."
            )
        return functional.embedding(x, self.weight.value)
