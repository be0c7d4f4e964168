"""Reductions in the order of a group, the same in every implementation of `Communicator`, and what they accept."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from trtllm_ext.errors import RankError
from trtllm_ext.parallel.communicator import Array, ReduceOp

COMBINE: dict[str, Callable[..., Any]] = {
    "sum": np.add,
    "prod": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
}
# Narrower types would be rounded once a rank; who reduces them casts to float32 and back, which rounds once.
REDUCIBLE = tuple(np.dtype(name) for name in ("float32", "float64", "int32", "int64"))


def reduce_in_order(parts: Sequence[Array], out: Array, op: ReduceOp) -> None:
    """((parts[0] op parts[1]) op parts[2]) ... into `out`, of flat arrays; `out` may be one of the first two."""
    combine = COMBINE[op]
    if len(parts) == 1:
        out[...] = parts[0]
        return
    # What is too large becomes infinite, as in every engine; a warning could be an error on one rank alone.
    with np.errstate(all="ignore"):
        combine(parts[0], parts[1], out=out)
        for part in parts[2:]:
            combine(out, part, out=out)


def check_reduction(what: str, values: Array, op: ReduceOp) -> None:
    """Raises RankError for an operation or a type that cannot be reduced. what: "all_reduce"."""
    if op not in COMBINE:
        raise RankError(f"{what}: {op!r} is not a reduction; there are {', '.join(COMBINE)}")
    if values.dtype not in REDUCIBLE:
        known = ", ".join(dtype.name for dtype in REDUCIBLE)
        raise RankError(
            f"{what} of {values.dtype} is not possible, only of {known}; cast to float32 before and back after"
        )


def check_array(what: str, values: Array, size: int | None = None, dtype: Any = None) -> None:
    """Raises RankError unless an array lies in one piece and has the size and type that belong to it."""
    if not values.flags.c_contiguous:
        raise RankError(f"{what}: an array of strides {values.strides} is not C-contiguous; pass a copy")
    if size is not None and values.size != size:
        raise RankError(f"{what}: the result has room for {values.size} values, not for the {size} that come")
    if dtype is not None and values.dtype != dtype:
        raise RankError(f"{what}: the result is of type {values.dtype}, what comes is {dtype}")


def check_group(what: str, group: Sequence[int], rank: int, world_size: int) -> tuple[int, ...]:
    """The group as a tuple. Raises RankError unless it is of different ranks of the world, this one among them."""
    ranks = tuple(group)
    if rank not in ranks or len(set(ranks)) != len(ranks) or min(ranks) < 0 or max(ranks) >= world_size:
        raise RankError(
            f"{what}: {list(ranks)} is not a group for rank {rank}: it needs different ranks of 0..{world_size - 1} "
            f"and rank {rank} among them"
        )
    return ranks


def share_of(what: str, size: int, ranks: int) -> int:
    """Values of each rank's part. Raises RankError if they do not split."""
    if size % ranks:
        raise RankError(f"{what}: {size} values do not split into {ranks} equal parts")
    return size // ranks


def two_threads(called: object, other: object) -> str:
    """The sentence for operations of one rank that overlap."""
    return (
        f"one thread called {called} while another one was in {other}; the order of a rank's operations must be that "
        "of all ranks, so use its communicator, and the sessions over it, from one thread at a time"
    )


def ranks_text(group: Sequence[int]) -> str:
    """(0, 1) -> "ranks 0, 1"."""
    return ("rank " if len(group) == 1 else "ranks ") + ", ".join(str(rank) for rank in group)


def to_json(value: Any) -> str:
    """Raises RankError for what JSON cannot hold."""
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as error:
        raise RankError(f"exchange takes values of JSON's types: {error}") from None
