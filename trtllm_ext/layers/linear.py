"""Matrix layers. Weights are (out_features, in_features), as in checkpoints."""

from __future__ import annotations

from numbers import Integral

from trtllm_ext.errors import ConfigError
from trtllm_ext.graph import Module, Parameter, Tensor, functional


def shard_size(size: int, tp_size: int, what: str) -> int:
    """This rank's share of `size`.

    Raises ConfigError when a size is no whole number or not positive, or tp_size does not divide it.
    """
    for name, value in ((what, size), ("tp_size", tp_size)):
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise ConfigError(f"{name}={value!r} is not a whole number.")
    if size < 1 or tp_size < 1:
        raise ConfigError(f"{what}={size} with tp_size={tp_size}: both must be at least 1.")
    if size % tp_size:
        left = size % tp_size
        raise ConfigError(
            f"{what}={size} does not split over tp_size={tp_size} (remainder {left}). Pick a divisor, or pad {what} "
            f"to {size - left + tp_size}."
        )
    return size // tp_size


def check_group(tp_group: list[int] | None, tp_size: int) -> list[int] | None:
    """tp_group, which holds one global rank for each of tp_size shards, or None."""
    if tp_group is not None and (len(set(tp_group)) != tp_size or len(tp_group) != tp_size):
        raise ConfigError(f"tp_group={list(tp_group)} does not name tp_size={tp_size} different ranks.")
    return tp_group


class Linear(Module):
    """x W^T + b, with W's rows split over tp_size ranks.

    weight: (out_features / tp_size, in_features); bias: (out_features / tp_size).
    gather_output: join the ranks' columns again after the product.
    Raises ConfigError when tp_size does not divide out_features.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        dtype: str | None = None,
        tp_group: list[int] | None = None,
        tp_size: int = 1,
        gather_output: bool = True,
    ) -> None:
        super().__init__()
        self.in_features = shard_size(in_features, 1, "in_features")
        self.out_features = shard_size(out_features, tp_size, "out_features")
        self.dtype = dtype or "float32"
        self.tp_group = check_group(tp_group, tp_size)
        self.tp_size = tp_size
        self.gather_output = gather_output
        self.weight = Parameter(shape=(self.out_features, self.in_features), dtype=self.dtype)
        if bias:
            self.bias = Parameter(shape=(self.out_features,), dtype=self.dtype)
        else:
            self.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in_features) of the layer's type; returns (..., out_features / tp_size)."""
        _refuse_shards(self, self.tp_size)
        return _product(x, self.weight, self.bias)


# As in TensorRT-LLM, the plain layer is the one whose weight is split by columns (of the transposed weight).
ColumnLinear = Linear


class RowLinear(Module):
    """x W^T + b, with W's columns, and so x's, split over tp_size ranks: the second matrix of a pair.

    weight: (out_features, in_features / tp_size); bias: (out_features), whole on every rank, added once.
    Raises ConfigError when tp_size does not divide in_features.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        dtype: str | None = None,
        tp_group: list[int] | None = None,
        tp_size: int = 1,
    ) -> None:
        super().__init__()
        self.in_features = shard_size(in_features, tp_size, "in_features")
        self.out_features = shard_size(out_features, 1, "out_features")
        self.dtype = dtype or "float32"
        self.tp_group = check_group(tp_group, tp_size)
        self.tp_size = tp_size
        self.weight = Parameter(shape=(self.out_features, self.in_features), dtype=self.dtype)
        if bias:
            self.bias = Parameter(shape=(self.out_features,), dtype=self.dtype)
        else:
            self.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in_features / tp_size) of the layer's type; returns (..., out_features)."""
        _refuse_shards(self, self.tp_size)
        return _product(x, self.weight, self.bias)


def _product(x: Tensor, weight: Parameter, bias: Parameter | None) -> Tensor:
    product = functional.matmul(x, weight.value, transb=True)
    return product if bias is None else product + bias.value


def _refuse_shards(layer: Module, tp_size: int) -> None:
    if tp_size > 1:
        raise ConfigError(
            f"{type(layer).__name__} with tp_size={tp_size} holds one shard of a layer; joining the shards takes a "
            "collective, which this version does not have. Use tp_size=1."
        )
