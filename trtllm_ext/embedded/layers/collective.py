"""The view of the layer that ranks compute together."""

from __future__ import annotations

from trtllm_ext.embedded.layers.base import ILayer


class IDistCollectiveLayer(ILayer):
    """A collective over a group of ranks; `num_ranks` is the size of the group, and setting another fails the build."""

    __slots__ = ()
