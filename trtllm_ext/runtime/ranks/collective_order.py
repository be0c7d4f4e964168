"""Whether the engines of all ranks do the same together: as many collectives, of the same kind, in the same order."""

from collections.abc import Sequence
from typing import Any

from trtllm_ext.errors import RankError
from trtllm_ext.parallel import Communicator
from trtllm_ext.runtime.json_files import canonical_digest

# Of a collective: operation, reduce_op, group, type, most values of a rank, name of the layer.
Described = list[Any]


def digest_of_order(steps: Sequence[Any]) -> dict[str, Any]:
    """Number and digest of an engine's collectives, in the order in which they run; names of layers are not in it."""
    return {"count": len(steps), "sha256": canonical_digest([_described(step)[:-1] for step in steps])}


def check_same_order(
    communicator: Communicator, digests: Sequence[dict[str, Any]], steps: Sequence[Any]
) -> None:
    """Compare all ranks' `digest_of_order`; where they differ, the collectives themselves.

    steps: this rank's. Ranks that are together in no group may do different things. Raises RankError on every rank.
    """
    if all(each == digests[0] for each in digests):
        return
    compare_orders(communicator.exchange([_described(step) for step in steps]))


def compare_orders(told: Sequence[list[Described]]) -> None:
    """Raises RankError unless any two ranks have the same collectives of groups that both are in, in one order."""
    for rank, own in enumerate(told):
        for other in range(rank):
            mine, theirs = (_of_both(listed, rank, other) for listed in (own, told[other]))
            if [each[:-1] for each in mine] != [each[:-1] for each in theirs]:
                raise RankError(_sentence(rank, mine, other, theirs))


def _described(step: Any) -> Described:
    return [step.operation, step.reduce_op, list(step.group), step.dtype, int(step.max_elements), step.layer]


def _of_both(listed: list[Described], rank: int, other: int) -> list[Described]:
    return [each for each in listed if {rank, other} <= set(each[2])]


def _sentence(rank: int, mine: list[Described], other: int, theirs: list[Described]) -> str:
    shared = min(len(mine), len(theirs))
    first = next((at for at in range(shared) if mine[at][:-1] != theirs[at][:-1]), shared)
    counts = f"{len(mine)} and {len(theirs)}" if len(mine) != len(theirs) else f"{len(mine)} each"
    return (
        f"the engine of rank {rank} has other collectives than that of rank {other}: {counts}; the first that differs "
        f"is number {first + 1}, on rank {rank} {_text(mine, first)}, on rank {other} {_text(theirs, first)}. Build "
        "all ranks with one command."
    )


def _text(listed: list[Described], at: int) -> str:
    if at == len(listed):
        return "none"
    operation, reduce_op, group, dtype, most, layer = listed[at]
    kind = operation.lower() if reduce_op == "NONE" else f"{operation.lower()} ({reduce_op.lower()})"
    return f"{kind} of {most} {dtype} over {group} ({layer!r})"
