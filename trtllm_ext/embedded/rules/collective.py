"""The rule of collectives."""

from collections.abc import Mapping, Sequence
from typing import Any

from trtllm_ext.embedded.enums import CollectiveOperation, DataType, ReduceOperation
from trtllm_ext.embedded.rules.known import FLOATS, INDICES, Known, OperandError, RuleError
from trtllm_ext.embedded.rules.typing import require_type

# Each element takes whole bytes.
_MOVABLE = FLOATS | INDICES | {DataType.INT8, DataType.UINT8, DataType.BOOL, DataType.FP8}

_REDUCING = frozenset({CollectiveOperation.ALL_REDUCE, CollectiveOperation.REDUCE_SCATTER})
_INSTEAD = {
    CollectiveOperation.BROADCAST: "ALL_GATHER and a slice give every rank the root's tensor",
    CollectiveOperation.REDUCE: "ALL_REDUCE gives the sum to the root, and to the others",
    CollectiveOperation.GATHER: "ALL_GATHER gives all parts to the root, and to the others",
    CollectiveOperation.SCATTER: "ALL_GATHER and a slice give every rank its part of the root's tensor",
    CollectiveOperation.ALL_TO_ALL: "ALL_GATHER and a slice give every rank its part of each tensor",
}


def dist_collective(
    attributes: Mapping[str, Any], inputs: Sequence[Known], strongly_typed: bool
) -> list[Known]:
    """ALL_REDUCE keeps the shape; of n ranks ALL_GATHER makes dimension 0 n times as long, REDUCE_SCATTER 1 / n."""
    [known] = inputs
    operation: CollectiveOperation = attributes["dist_collective_op"]
    group: tuple[int, ...] = attributes["groups"]
    check_collective(operation, attributes["reduce_op"], group, known.dtype)
    if attributes["num_ranks"] != len(group):
        raise RuleError(
            f"num_ranks={attributes['num_ranks']} contradicts groups={list(group)} of {len(group)}; set "
            f"num_ranks={len(group)}, or leave it alone"
        )
    if not known.shape:
        raise OperandError(
            f"{operation.name} needs at least one dimension, and the input is a scalar; reshape it"
        )
    first, rest = known.shape[0], known.shape[1:]
    if operation == CollectiveOperation.ALL_GATHER and first != -1:
        first *= len(group)
    elif operation == CollectiveOperation.REDUCE_SCATTER and first != -1:
        first = _share(first, len(group))
    return [Known(known.dtype, (first, *rest))]


def check_collective(
    operation: CollectiveOperation, reduce_op: ReduceOperation, group: tuple[int, ...], dtype: DataType
) -> None:
    """Raises RuleError for a collective that the embedded engine does not do, whatever the shape."""
    if operation in _INSTEAD:
        raise RuleError(
            f"collective {operation.name} is not supported by the embedded engine; {_INSTEAD[operation]}"
        )
    _check_group(group)
    _check_types(operation, reduce_op, dtype)


def _check_group(group: tuple[int, ...]) -> None:
    if not group:
        raise RuleError("groups is empty; name the ranks of the group, such as [0, 1]")
    if min(group) < 0:
        raise RuleError(f"groups={list(group)} has the negative rank {min(group)}; ranks count from 0")
    if len(set(group)) != len(group):
        twice = next(rank for rank in group if group.count(rank) > 1)
        raise RuleError(f"groups={list(group)} names rank {twice} twice; name each rank of the group once")


def _check_types(operation: CollectiveOperation, reduce_op: ReduceOperation, dtype: DataType) -> None:
    if operation not in _REDUCING:
        if reduce_op != ReduceOperation.NONE:
            raise RuleError(
                f"{operation.name} reduces nothing, but reduce_op is {reduce_op.name}; give it NONE"
            )
        require_type(dtype, _MOVABLE, operation.name)
        return
    if reduce_op == ReduceOperation.NONE:
        raise RuleError(f"{operation.name} needs a reduce_op: SUM, PROD, MAX, MIN or AVG, not NONE")
    allowed = FLOATS if reduce_op == ReduceOperation.AVG else FLOATS | INDICES
    require_type(dtype, allowed, f"{operation.name} {reduce_op.name}")


def _share(length: int, count: int) -> int:
    left = length % count
    if left:
        lower, upper = length - left, length - left + count
        fitting = f"{lower} or {upper}" if lower else f"{upper}"
        raise RuleError(
            f"REDUCE_SCATTER splits dimension 0 over {count} ranks, but it is {length} long; {fitting} would fit"
        )
    return length // count
