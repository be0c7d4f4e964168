"""How the weights of a model split over tensor-parallel ranks, and the splitting and joining of arrays.

What is split, and along which axis, follows from `expected_weights`: the shape that a weight has as a whole beside the
one that it has on a rank. In row-major order the elements of a whole weight then belong to the ranks in turn:

    whole (rows, columns) over 2 ranks       elements in order, by rank         run
    by rows                                  000...0 111...1                    rows / 2 * columns
    by columns                               0..0 1..1 0..0 1..1 ...            columns / 2
    qkv: q, k and v each by rows of heads    00..0 11..1 00..0 11..1 00..0 11..1  rows / 3 / 2 * columns
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from trtllm_ext.checkpoint.config import ModelConfig
from trtllm_ext.checkpoint.weights import Shape, expected_weights
from trtllm_ext.errors import CheckpointError, ConfigError
from trtllm_ext.parallel import Mapping as RankMapping

# Matrices of several parts under each other, each of which is split on its own.
_BLOCKS = {"attention.qkv": 3}


@dataclass(frozen=True)
class Split:
    """How one weight is divided: runs of `run` elements belong to ranks 0, 1, ..., ranks - 1 in turn.

    whole, part: the shapes of the whole weight and of each rank's part. ranks: 1 for a weight that each rank holds
    whole; then part and whole are the same.
    """

    whole: Shape
    part: Shape
    ranks: int
    run: int

    def take(self, whole: npt.NDArray, rank: int) -> npt.NDArray:
        """A rank's part of a whole weight: a view where its elements lie regularly, else a copy."""
        return whole if self.ranks == 1 else self._turns(whole)[:, rank].reshape(self.part)

    def join(self, parts: Sequence[npt.NDArray]) -> npt.NDArray:
        """The whole weight of all ranks' parts, in their order; the first part itself where each is the whole."""
        if self.ranks == 1:
            return parts[0]
        whole = np.empty(self.whole, parts[0].dtype)
        turns = self._turns(whole)
        for rank, part in enumerate(parts):
            turns[:, rank] = part.reshape(-1, self.run)
        return whole

    def _turns(self, whole: npt.NDArray) -> npt.NDArray:
        return whole.reshape(-1, self.ranks, self.run)


def with_ranks(config: ModelConfig, tp_size: int, rank: int = 0) -> ModelConfig:
    """The config of the same model over tp_size ranks, as one of them has it.

    Raises ConfigError for a size that does not divide the model's heads and widths, and a rank outside it.
    """
    check_tp_size(tp_size)
    mapping = RankMapping(
        world_size=tp_size, tp_size=tp_size, rank=rank, gpus_per_node=config.mapping.gpus_per_node
    )
    sharded = replace(config, mapping=mapping)
    expected_weights(sharded)
    return sharded


def check_tp_size(tp_size: int) -> None:
    """Raise ConfigError for a number of ranks below 1."""
    if tp_size < 1:
        raise ConfigError(f"tp_size={tp_size} must be at least 1.")


def ways_to_ranks(tp_size: int) -> str:
    """How to get a checkpoint of that many ranks, as the end of a sentence."""
    return (
        f"convert the model with --tp_size {tp_size}, or write the checkpoint with a config whose mapping has tp_size "
        f"{tp_size}"
    )


def whole_config(config: ModelConfig) -> ModelConfig:
    """The config of the same model on a single rank."""
    return with_ranks(config, 1)


def splits(config: ModelConfig) -> dict[str, Split]:
    """How each weight splits over the ranks of the config's mapping, in the order of `expected_weights`.

    Raises ConfigError when they do not split.
    """
    wholes, parts = expected_weights(whole_config(config)), expected_weights(config)
    ranks = config.mapping.tp_size
    return {name: _split(name, wholes[name], part, ranks) for name, part in parts.items()}


def _split(name: str, whole: Shape, part: Shape, ranks: int) -> Split:
    axes = [axis for axis, size in enumerate(whole) if part[axis] != size]
    if not axes:
        return Split(whole, part, 1, math.prod(whole))
    (axis,) = axes
    blocks = _BLOCKS.get(".".join(name.split(".")[-3:-1]), 1)
    return Split(whole, part, ranks, math.prod(part[axis:]) // blocks)


def split_weights(
    weights: Mapping[str, npt.NDArray], config: ModelConfig, rank: int
) -> dict[str, npt.NDArray]:
    """A rank's weights of a model's whole ones: views of them where possible (rows), else copies.

    config: its mapping says over how many ranks; its own rank does not matter. Raises CheckpointError for a weight
    that is missing or has another shape, ConfigError for a model that does not split and a rank outside the mapping.
    """
    ranks = config.mapping.tp_size
    if not 0 <= rank < ranks:
        raise ConfigError(f"rank={rank} is outside 0..{ranks - 1}, the ranks of tp_size={ranks}.")
    rules = splits(config)
    _check(weights, {name: rule.whole for name, rule in rules.items()}, "the whole weights")
    return {name: rule.take(weights[name], rank) for name, rule in rules.items()}


def join_weights(by_rank: Sequence[Mapping[str, npt.NDArray]], config: ModelConfig) -> dict[str, npt.NDArray]:
    """A model's whole weights of those of all its ranks, in their order.

    config: of any of the ranks. A weight that each rank holds whole is rank 0's, not a copy.
    Raises CheckpointError for another number of ranks, a weight that is missing or has another shape, and one that
    should be the same on all ranks and is not.
    """
    ranks = config.mapping.tp_size
    if len(by_rank) != ranks:
        raise CheckpointError(f"weights of {len(by_rank)} ranks are given, the config has tp_size={ranks}.")
    rules = splits(config)
    for rank, weights in enumerate(by_rank):
        _check(weights, {name: rule.part for name, rule in rules.items()}, f"the weights of rank {rank}")
    return {name: join_weight(name, rule, [w[name] for w in by_rank]) for name, rule in rules.items()}


def join_weight(name: str, split: Split, parts: Sequence[npt.NDArray]) -> npt.NDArray:
    """One whole weight of the parts of all ranks; CheckpointError where they should agree and do not."""
    if split.ranks == 1:
        for rank, part in enumerate(parts[1:], 1):
            if not _same_bits(parts[0], part):
                raise CheckpointError(
                    f"{name} is whole on each rank, but rank {rank} holds other values than rank 0: they are "
                    "not of one model. Convert it again."
                )
    return split.join(parts)


def _same_bits(a: npt.NDArray, b: npt.NDArray) -> bool:
    code = f"u{a.itemsize}"
    return a is b or (a.dtype == b.dtype and np.array_equal(a.view(code), b.view(code)))


def _check(weights: Mapping[str, npt.NDArray], shapes: Mapping[str, Shape], what: str) -> None:
    for name, shape in shapes.items():
        if name not in weights:
            raise CheckpointError(f"{name} is missing among {what}.")
        if weights[name].shape != shape:
            raise CheckpointError(
                f"{name} has shape {weights[name].shape} among {what}, the config calls for {shape}."
            )
