"""The view of a plugin layer."""

from __future__ import annotations

from typing import Any

from trtllm_ext.embedded.layers.base import ILayer


class IPluginV3Layer(ILayer):
    """The application's own code; inputs are followed by shape inputs, of which the code sees the values only."""

    __slots__ = ()

    @property
    def plugin(self) -> Any:
        """The plugin: a clone of the one that add_plugin_v3() was given."""
        return self._node.attributes["handle"].plugin
