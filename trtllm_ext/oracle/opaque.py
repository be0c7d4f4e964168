"""Layers at which an evaluation cannot but stop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trtllm_ext.oracle import plugin
from trtllm_ext.oracle.call import kind_of
from trtllm_ext.oracle.kinds import CONTROL_KINDS, KINDS


@dataclass(frozen=True)
class OpaqueLayer:
    """A layer whose meaning the oracle does not know. plugin: its plugin's name, "" where it has none that is told."""

    layer: str
    kind: str
    plugin: str
    outputs: tuple[str, ...]


def opaque_layers(
    network: Any, trt: Any, plugins: Mapping[str, plugin.Meaning] | None = None
) -> tuple[OpaqueLayer, ...]:
    """The layers of a network at which an evaluation stops unless the values of their outputs are `given`.

    These are plugins without a function in `plugins`, and kinds of layers that the oracle does not have.
    """
    found = []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        kind, name = kind_of(layer, trt), str(layer.name)
        if kind in KINDS or kind in CONTROL_KINDS:
            continue
        its_plugin = plugin.plugin_name(layer, kind, trt)
        if plugin.meaning_of(name, its_plugin, plugins or {}) is None:
            outputs = tuple(str(layer.get_output(i).name) for i in range(layer.num_outputs))
            found.append(OpaqueLayer(name, kind, its_plugin, outputs))
    return tuple(found)
