"""The view of the layer that ranks compute together."""

from __future__ import annotations

from trtllm_ext.embedded.enums import CollectiveOperation, ReduceOperation
from trtllm_ext.embedded.layers.base import ILayer


class IDistCollectiveLayer(ILayer):
    """A collective over a group of ranks; `num_ranks` is the size of the group, and setting another fails the build.

    TensorRT's class shows nothing of what it was made with; the three properties here are ours.
    """

    __slots__ = ()

    @property
    def dist_collective_op(self) -> CollectiveOperation:
        """What the ranks do."""
        operation: CollectiveOperation = self._node.attributes["dist_collective_op"]
        return operation

    @property
    def reduce_op(self) -> ReduceOperation:
        """How elements are combined; NONE for ALL_GATHER."""
        reduction: ReduceOperation = self._node.attributes["reduce_op"]
        return reduction

    @property
    def groups(self) -> tuple[int, ...]:
        """The ranks of the group, in order."""
        group: tuple[int, ...] = self._node.attributes["groups"]
        return group
