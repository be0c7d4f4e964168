"""A plugin's meaning is in its code; the oracle takes it from a reference function that comes with the call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from trtllm_ext.oracle.call import Call
from trtllm_ext.oracle.values import Array, held_as, member_name

# From the arrays of a layer's inputs, shape inputs last, to the array of its output, or one for each.
Meaning = Callable[..., Array | tuple[Array, ...]]


def evaluated(call: Call, meanings: Mapping[str, Meaning], outputs: list[Any]) -> tuple[Array, ...]:
    """The outputs of a plugin layer. Raises OracleError if there is no reference function for the plugin."""
    layer = call.attributes("IPluginV3Layer")
    core = layer.plugin.get_capability_interface(call.trt.PluginCapabilityType.CORE)
    name = str(core.plugin_name)
    if name not in meanings:
        call.refuse(
            f"what plugin {name!r} computes is not known; give a function for it: plugins={{{name!r}: function}}"
        )
    found = meanings[name](*call.present())
    results = found if isinstance(found, tuple) else (found,)
    if len(results) != len(outputs):
        call.refuse(f"the function of plugin {name!r} gives {len(results)} arrays for {len(outputs)} outputs")
    return tuple(
        np.asarray(result, held_as(member_name(out.dtype)))
        for result, out in zip(results, outputs, strict=True)
    )
