"""Layers over several ranks: what the ranks of a group get, each of which evaluates a network of its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce as folded

import numpy as np

from trtllm_ext.oracle.call import Call
from trtllm_ext.oracle.values import Array, is_floating, member_name
from trtllm_ext.parallel.communicator import Communicator

_REDUCTIONS: dict[str, Callable[[Array, Array], Array]] = {
    "SUM": np.add,
    "PROD": np.multiply,
    "MAX": np.maximum,
    "MIN": np.minimum,
    "AVG": np.add,
}


def dist_collective(call: Call) -> Array:
    """ALL_REDUCE, and along the first dimension ALL_GATHER and REDUCE_SCATTER.

    Every rank's value is fetched through the call's communicator and combined here, in the order of the group.
    """
    operation, reduction, group = _attributes(call)
    communicator = _communicator(call, group)
    x = call.input(0)
    if operation not in ("ALL_REDUCE", "ALL_GATHER", "REDUCE_SCATTER"):
        call.refuse(f"the oracle does not know the collective operation {operation}")
    if not x.ndim:
        call.refuse("a tensor without dimensions has no first one")
    if operation == "REDUCE_SCATTER" and x.shape[0] % len(group):
        call.refuse(f"an input of shape {x.shape} does not split into {len(group)} equal parts")
    parts = np.empty((len(group), *x.shape), x.dtype)
    communicator.all_gather(np.ascontiguousarray(x), parts, group)
    if operation == "ALL_GATHER":
        return np.concatenate(list(parts), axis=0)
    total = _reduced(call, reduction, list(parts))
    if operation == "ALL_REDUCE":
        return total
    return np.split(total, len(group))[group.index(communicator.rank)]


def _attributes(call: Call) -> tuple[str, str, list[int]]:
    """Operation, reduction, group. The embedded engine's layer tells them, TensorRT's class has no way to ask."""
    layer = call.attributes("IDistCollectiveLayer")
    if not hasattr(layer, "dist_collective_op"):
        call.refuse(
            "TensorRT's networks do not tell which collective a layer is; make it for the embedded engine"
        )
    return (
        member_name(layer.dist_collective_op),
        member_name(layer.reduce_op),
        [int(rank) for rank in layer.groups],
    )


def _communicator(call: Call, group: list[int]) -> Communicator:
    found = call.communicator
    if found is None:
        call.refuse(
            f"it is over the ranks {group}; evaluate each rank's network in a thread of its own with communicator=, "
            "as parallel.run_ranks gives them"
        )
    if found.rank not in group:
        call.refuse(f"it is over the ranks {group}, of which rank {found.rank} is none")
    return found


def _reduced(call: Call, reduction: str, parts: list[Array]) -> Array:
    if reduction not in _REDUCTIONS or (reduction == "AVG" and not is_floating(parts[0])):
        call.refuse(f"the oracle does not know the reduction {reduction} of {parts[0].dtype}")
    total = folded(_REDUCTIONS[reduction], parts)
    return total / len(parts) if reduction == "AVG" else total
