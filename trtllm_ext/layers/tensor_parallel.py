"""What layers share of which each rank holds a part: sizes, sums over the ranks, and tokens dealt out to them.

Megatron's split (Shoeybi et al. 2019, arXiv 1909.08053): the first matrix of a pair by its outputs, the second by its
inputs, one sum over the ranks after it. With sequence parallelism (Korthikanti et al. 2022, arXiv 2205.05198) each rank
has its own tokens only between the pairs: the sum is scattered over the ranks instead of given to all, and tokens are
gathered before the next pair.
"""

from __future__ import annotations

from numbers import Integral

from trtllm_ext import backend
from trtllm_ext.errors import ConfigError
from trtllm_ext.graph import Tensor, functional
from trtllm_ext.suggest import divisors


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
            f"{what}={size} does not split over tp_size={tp_size} (remainder {left}); tp sizes that do: "
            f"{divisors(size)}. Pick one of them, or pad {what} to {size - left + tp_size}."
        )
    return size // tp_size


def check_group(tp_group: list[int] | None, tp_size: int) -> list[int] | None:
    """tp_group, which holds one global rank for each of tp_size shards, or None."""
    if tp_group is not None and (len(set(tp_group)) != tp_size or len(tp_group) != tp_size):
        raise ConfigError(f"tp_group={list(tp_group)} does not name tp_size={tp_size} different ranks.")
    return tp_group


def check_summed(tp_group: list[int] | None, tp_size: int) -> list[int] | None:
    """tp_group of a layer whose result is a sum over the ranks; None over one rank only.

    Raises ConfigError for several ranks without a tp_group: what such a layer gave would be one rank's share.
    """
    if tp_size > 1 and tp_group is None:
        ranks = list(range(tp_size)) if tp_size <= 8 else f"list(range({tp_size}))"
        raise ConfigError(
            f"tp_size={tp_size} without a tp_group: the ranks' shares would not be added. Give tp_group={ranks}."
        )
    return check_group(tp_group, tp_size)


def check_sequence_parallel(sequence_parallel: bool, tp_group: list[int] | None, tp_size: int) -> bool:
    """Whether tokens are dealt out: over one rank there is nothing to deal. Raises ConfigError without a group."""
    if sequence_parallel and tp_size > 1 and tp_group is None:
        raise ConfigError(
            f"sequence_parallel with tp_size={tp_size} needs tp_group, the ranks that the tokens are dealt out to."
        )
    return sequence_parallel and tp_size > 1


def wide(x: Tensor) -> Tensor:
    """x in the type in which a rank's part of a sum is kept until all parts are added.

    The embedded engine computes in float32 anyhow, so that keeping it costs nothing but the collective's bytes, and the
    sum is rounded once. NVIDIA's engine has its fast products in the narrow types, and keeps them.
    """
    return functional.cast(x, "float32") if backend.choice().engine == "embedded" else x


def sum_over_ranks(partial: Tensor, tp_group: list[int], scatter: bool = False) -> Tensor:
    """The sum of the ranks' partial tensors, of their type.

    scatter: of the first axis, which the number of ranks divides, only this rank's part.
    """
    if scatter:
        return functional.reduce_scatter(partial, tp_group)
    return functional.allreduce(partial, tp_group)


def gather_tokens(x: Tensor, tp_group: list[int]) -> Tensor:
    """Every rank's tokens, one rank's after another's along the first axis."""
    return functional.allgather(x, tp_group, gather_dim=0)


def own_tokens(x: Tensor, tp_size: int, tp_rank: int, dim: int = 0) -> Tensor:
    """This rank's tokens of all: the tp_rank-th of tp_size equal parts of axis `dim`, which may vary.

    Where the number of tokens does not divide, the last one stands in for those missing at the end: what a network
    computes of them is within what it computes of real ones.
    """
    count = functional.shape(x, dim)
    share = (count + (tp_size - 1)) // tp_size
    places = functional.arange(share * tp_rank, share * (tp_rank + 1), "int32")
    return functional.index_select(x, dim, functional.minimum(places, functional.view(count - 1, [1])))


def all_tokens(x: Tensor, tp_group: list[int], count: Tensor) -> Tensor:
    """The first `count` of every rank's tokens (n, ...): `own_tokens` undone. count: of one element, int32."""
    gathered = gather_tokens(x, tp_group)
    return functional.slice(gathered, [0] * x.rank(), functional.concat([count, *x.shape[1:]]))
