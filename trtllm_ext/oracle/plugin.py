"""A plugin's meaning is in its code; the oracle takes it from a reference function that comes with the call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from trtllm_ext.oracle.call import Call
from trtllm_ext.oracle.values import Array, held_as, member_name

# From the arrays of a layer's inputs, shape inputs last, to the array of its output, or one for each.
Meaning = Callable[..., Array | tuple[Array, ...]]

_CLASS_OF = {"PLUGIN": "IPluginLayer", "PLUGIN_V2": "IPluginV2Layer", "PLUGIN_V3": "IPluginV3Layer"}
KINDS = frozenset(_CLASS_OF)


def plugin_name(layer: Any, kind: str, trt: Any) -> str:
    """What a plugin layer's plugin calls itself; "" where the library does not tell."""
    if kind not in KINDS or not hasattr(trt, _CLASS_OF[kind]):
        return ""
    wanted = getattr(trt, _CLASS_OF[kind])
    if not isinstance(layer, wanted):
        layer.__class__ = wanted
    try:
        if kind != "PLUGIN_V3":
            return str(layer.plugin.plugin_type)
        return str(layer.plugin.get_capability_interface(trt.PluginCapabilityType.CORE).plugin_name)
    except (AttributeError, TypeError):
        return ""


def evaluated(call: Call, meanings: Mapping[str, Meaning], outputs: list[Any]) -> tuple[Array, ...]:
    """The outputs of a plugin layer. Raises OracleError if there is no reference function for the plugin."""
    name = plugin_name(call.layer, call.kind, call.trt)
    meaning = meaning_of(call.name, name, meanings)
    if meaning is None:
        made = ", ".join(repr(str(out.name)) for out in outputs)
        call.refuse(
            f"what plugin {name!r} computes is not known; give a function for it: plugins={{{name!r}: function}}, or "
            f"the values of {made}: given={{name: array}}"
        )
    found = meaning(*call.present())
    results = found if isinstance(found, tuple) else (found,)
    if len(results) != len(outputs):
        call.refuse(f"the function of plugin {name!r} gives {len(results)} arrays for {len(outputs)} outputs")
    return tuple(
        np.asarray(result, held_as(member_name(out.dtype)))
        for result, out in zip(results, outputs, strict=True)
    )


def meaning_of(layer: str, plugin: str, meanings: Mapping[str, Meaning]) -> Meaning | None:
    """The function for a layer, by its own name or else by its plugin's."""
    return meanings.get(layer) or meanings.get(plugin)
