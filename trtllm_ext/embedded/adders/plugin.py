"""add_ methods of plugin layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trtllm_ext.embedded.adders.base import AdderBase
from trtllm_ext.embedded.enums import LayerType
from trtllm_ext.embedded.layers.plugin import IPluginV3Layer
from trtllm_ext.embedded.plugins.asking import PluginError, PluginHandle, guarded
from trtllm_ext.embedded.plugins.definition import AskedOutputs
from trtllm_ext.embedded.plugins.interfaces import IPluginV3
from trtllm_ext.embedded.rules.plugin import Signature
from trtllm_ext.embedded.tensor import ITensor


class PluginAdders(AdderBase):
    """Plugins."""

    def add_plugin_v3(
        self, inputs: Sequence[ITensor], shape_inputs: Sequence[ITensor], plugin: IPluginV3
    ) -> IPluginV3Layer | None:
        """A layer that a clone of `plugin` computes.

        shape_inputs: integer tensors whose values the plugin's shapes depend on. An exception in the plugin's code
        is logged with the plugin's name, and there is no layer then.
        """
        if not isinstance(plugin, IPluginV3):
            raise TypeError(f"add_plugin_v3 takes an IPluginV3, not {plugin!r}")
        tensors, shape_tensors = tuple(inputs), tuple(shape_inputs)
        attributes: dict[str, Any] = {
            "signature": Signature(len(tensors), len(shape_tensors), (), (), ()),
        }
        try:
            handle = _clone_of(plugin)
            asked = AskedOutputs(handle, attributes)
        except PluginError as error:
            return self._refuse(f"add_plugin_v3: {error}")
        attributes |= {"handle": handle, "asked": asked}
        return self._add(
            IPluginV3Layer,
            LayerType.PLUGIN_V3,
            attributes,
            (*tensors, *shape_tensors),
            num_outputs=asked.num_outputs,
        )

    def add_plugin(self, *args: Any, **kwargs: Any) -> IPluginV3Layer | None:
        """As `add_plugin_v3()` with its arguments as one tuple; functions of `tensorrt.plugin` are refused."""
        given = args[0] if args else kwargs.get("tuple")
        if not isinstance(given, Sequence) or len(given) != 3:
            return self._refuse(
                "add_plugin takes (inputs, shape_inputs, plugin); functions of tensorrt.plugin are not supported "
                "by the embedded engine: write an IPluginV3."
            )
        return self.add_plugin_v3(*given)


def _clone_of(plugin: IPluginV3) -> PluginHandle:
    """A clone to keep; the plugin itself stays the application's."""
    name = f"{type(plugin).__name__}.clone()"
    clone = guarded(plugin.clone, name)
    if clone is plugin:
        raise PluginError(f"{name} gave the plugin itself, where a clone belongs")
    return PluginHandle(clone, name)
