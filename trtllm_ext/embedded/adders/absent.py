"""add_ methods of layers that the embedded engine lacks: they log why there is no layer, and return None."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trtllm_ext.embedded.adders.base import AdderBase


def _absent(name: str, instead: str) -> Callable[..., None]:
    def adder(self: AdderBase, *args: Any, **kwargs: Any) -> None:
        self._refuse(f"{name} is not supported by the embedded engine; {instead}")

    adder.__name__ = adder.__qualname__ = name
    adder.__doc__ = f"Not supported: {instead}"
    return adder


class AbsentAdders(AdderBase):
    """Comes last among the families, so a family that has one of these methods hides the one here."""

    add_attention = _absent("add_attention", "build attention from matrix_multiply and softmax layers.")
    add_dynamic_quantize = _absent(
        "add_dynamic_quantize", "compute the scales with reduce layers and use add_quantize()."
    )
    add_grid_sample = _absent("add_grid_sample", "use add_resize() or gather the elements.")
    add_lrn = _absent("add_lrn", "use add_normalization().")
    add_nms = _absent("add_nms", "select boxes outside of the network.")
    add_plugin_v2 = _absent("add_plugin_v2", "write the plugin for IPluginV3 and use add_plugin_v3().")
    add_ragged_softmax = _absent("add_ragged_softmax", "mask the input and use add_softmax().")
