"""The plugins of the embedded engine: the same names and fields, computed by their expansions.

Its builder puts the plain layers that a plugin's `expand` adds into the place of the plugin layer, so an engine holds
no plugin and needs no creator to be loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import trtllm_ext.embedded as trt
from trtllm_ext.graph import Tensor, functional
from trtllm_ext.graph.network import Network, net_guard
from trtllm_ext.plugin.c_interface import Type
from trtllm_ext.plugin.operation import Operand, Operation
from trtllm_ext.plugin.operations import OPERATIONS
from trtllm_ext.plugin.packing import packed, unpacked

_DATA_TYPES = {
    Type.FLOAT32: trt.DataType.FLOAT,
    Type.FLOAT16: trt.DataType.HALF,
    Type.BFLOAT16: trt.DataType.BF16,
    Type.INT8: trt.DataType.INT8,
    Type.FLOAT8_E4M3: trt.DataType.FP8,
}


def register(registry: Any, operations: Iterable[Operation] = tuple(OPERATIONS.values())) -> None:
    """Put the creators of operations, by default of all here, into a registry.

    Those that are there stay, but for one of the same operation with another record: it gives way. What was made by it
    keeps its record.
    """
    for operation in operations:
        there = registry.get_creator(*operation.key)
        if isinstance(there, Creator) and there.operation != operation:
            registry.deregister_creator(there)
        registry.register_creator(Creator(operation), operation.namespace)


class Creator(trt.IPluginCreatorV3One):
    """Makes the plugins of one operation."""

    def __init__(self, operation: Operation) -> None:
        trt.IPluginCreatorV3One.__init__(self)
        self.operation = operation
        self.name = operation.plugin
        self.plugin_version = operation.version
        self.plugin_namespace = operation.namespace
        self.field_names = trt.PluginFieldCollection(
            [trt.PluginField(each.name) for each in operation.fields]
        )

    def create_plugin(self, name: str, field_collection: Iterable[Any], phase: Any) -> ExpandedPlugin:
        """Raises GraphError for fields that the operation does not take."""
        return ExpandedPlugin(self.operation, unpacked(self.operation, field_collection))


class ExpandedPlugin(trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime):
    """A plugin that is its operation's expansion. fields: complete."""

    def __init__(self, operation: Operation, fields: Mapping[str, Any]) -> None:
        trt.IPluginV3.__init__(self)
        trt.IPluginV3OneCore.__init__(self)
        trt.IPluginV3OneBuild.__init__(self)
        trt.IPluginV3OneRuntime.__init__(self)
        self.operation, self.fields = operation, dict(fields)
        self.outputs: Sequence[Operand] = operation.outputs_of(fields)
        self.plugin_name, self.plugin_version, self.plugin_namespace = operation.key
        self.num_outputs = len(self.outputs)

    def get_capability_interface(self, type: Any) -> ExpandedPlugin:
        return self

    def clone(self) -> ExpandedPlugin:
        return ExpandedPlugin(self.operation, self.fields)

    def expand(self, network: Any) -> None:
        """Add the operation's plain layers to an `INetworkDefinition` that has the plugin layer's inputs alone."""
        # Kept with the plugin, and so with the network that it is in: constants borrow their memory.
        inner = self._expansion = Network(network)
        with net_guard(inner):
            inputs = [
                Tensor(trt_tensor=network.get_input(index), network=inner)
                for index in range(network.num_inputs)
            ]
            for index, tensor in enumerate(self.operation.expanded(self.fields, inputs)):
                is_input = tensor.trt_tensor.is_network_input
                (functional.identity(tensor) if is_input else tensor).mark_output(f"output_{index}")

    def get_output_data_types(self, input_types: Sequence[Any]) -> list[Any]:
        kinds = (
            Type.FLOAT32 if each.type == "float32" else Type(self.fields[each.type]) for each in self.outputs
        )
        return [_DATA_TYPES[kind] for kind in kinds]

    def get_output_shapes(
        self, inputs: Sequence[Any], shape_inputs: Sequence[Any], expr_builder: Any
    ) -> list[Any]:
        shapes = []
        for output in self.outputs:
            dims = trt.DimsExprs(inputs[0])
            if output.shape[-1] == "1":
                dims[len(dims) - 1] = expr_builder.constant(1)
            shapes.append(dims)
        return shapes

    def get_fields_to_serialize(self) -> Any:
        return packed(self.operation, self.fields, trt)[0]
