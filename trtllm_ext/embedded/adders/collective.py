"""add_ methods of layers that ranks compute together."""

from __future__ import annotations

from collections.abc import Sequence

from trtllm_ext.embedded.adders.base import AdderBase, MaybeTensor
from trtllm_ext.embedded.enums import CollectiveOperation, LayerType, ReduceOperation
from trtllm_ext.embedded.layers.base import as_int, member_of
from trtllm_ext.embedded.layers.collective import IDistCollectiveLayer


class CollectiveAdders(AdderBase):
    """Collectives, with the signature that TensorRT 11 has."""

    def add_dist_collective(
        self,
        input: MaybeTensor,
        dist_collective_op: CollectiveOperation,
        reduce_op: ReduceOperation | None,
        root: int | None,
        groups: Sequence[int] | None,
    ) -> IDistCollectiveLayer | None:
        """What the ranks in `groups` do together with their `input`: ALL_REDUCE, ALL_GATHER or REDUCE_SCATTER.

        reduce_op: NONE (or None) for ALL_GATHER. root: not used by these; -1 or None. groups: the global ranks of one
        group in order, at least one; None, which in TensorRT is all ranks, is refused.
        """
        group = tuple(as_int(rank) for rank in (() if groups is None else groups))
        attributes = {
            "dist_collective_op": member_of(CollectiveOperation)(dist_collective_op),
            "reduce_op": ReduceOperation.NONE if reduce_op is None else member_of(ReduceOperation)(reduce_op),
            "root": -1 if root is None else as_int(root),
            "groups": group,
            "num_ranks": max(len(group), 1),
        }
        return self._add(IDistCollectiveLayer, LayerType.DIST_COLLECTIVE, attributes, (input,))
