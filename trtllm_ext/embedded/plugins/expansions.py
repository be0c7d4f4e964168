"""Plugins that can be written out as plain layers: the builder puts those in the place of the plugin layer.

A plugin offers it by a method of its build part, `expand(network)`. It is called with a network that has an input for
each input of the layer, of the same type and shape, adds layers, and marks the outputs, in the order of the layer's.
Whoever offers it keeps the memory that constants among them borrow, until the next call. TensorRT knows no such method,
and takes no notice of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtllm_ext.embedded.enums import LayerType, PluginCapabilityType
from trtllm_ext.embedded.network import INetworkDefinition
from trtllm_ext.embedded.node import Node
from trtllm_ext.embedded.plugins.asking import PluginHandle
from trtllm_ext.errors import BuildError

if TYPE_CHECKING:
    from trtllm_ext.lowering.steps import Expansion


def expansions_of(network: INetworkDefinition) -> dict[str, Expansion]:
    """The expansions of a network's plugin layers that have one, by the layer's name.

    Raises PluginError with what `expand()` raised; BuildError for two such layers of one name, for an expansion that
    does not fit its layer, and for one that the network refuses.
    """
    found: dict[str, Expansion] = {}
    for node in network._graph.nodes:
        if node.kind != LayerType.PLUGIN_V3 or not _expands(node.attributes["handle"]):
            continue
        if node.name in found:
            raise BuildError(
                f"two plugin layers are called {node.name!r}; layers that are written out need names of their own."
            )
        found[node.name] = _expanded(node, network)
    return found


def _expands(handle: PluginHandle) -> bool:
    return hasattr(handle.part(PluginCapabilityType.BUILD), "expand")


def _expanded(node: Node, network: INetworkDefinition) -> Expansion:
    from trtllm_ext.lowering.steps import Expansion

    inner = network.builder.create_network(network.flags)
    for index, tensor in enumerate(node.inputs):
        if tensor is not None:
            inner.add_input(f"input_{index}", tensor.dtype, tensor.shape)
    handle: PluginHandle = node.attributes["handle"]
    handle.ask(handle.part(PluginCapabilityType.BUILD), "expand", inner)
    if errors := inner._errors():
        raise BuildError(f"{node.name}: the expansion of {handle.label} is refused: {'; '.join(errors)}")
    made = [inner.get_output(index) for index in range(inner.num_outputs)]
    types = [(tensor.dtype, len(tensor.shape)) for tensor in made if tensor is not None]
    wanted = [(tensor.dtype, len(tensor.shape)) for tensor in node.outputs]
    if types != wanted:
        raise BuildError(
            f"{node.name}: the expansion of {handle.label} gives {types} (type and number of dimensions), where the "
            f"layer gives {wanted}."
        )
    return Expansion(inner)
