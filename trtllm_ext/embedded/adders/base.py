"""What all add_ methods share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from trtllm_ext.embedded.enums import LayerType, Severity
from trtllm_ext.embedded.graph import Graph
from trtllm_ext.embedded.layers import ILayer
from trtllm_ext.embedded.node import Node
from trtllm_ext.embedded.tensor import ITensor

L = TypeVar("L", bound=ILayer)

# Attributes and inputs set later may mend layers of these kinds, so only a fault of the operands refuses them now.
MENDABLE = frozenset(
    {
        LayerType.ASSERTION,
        LayerType.CONCATENATION,
        LayerType.CONVOLUTION,
        LayerType.DECONVOLUTION,
        LayerType.DEQUANTIZE,
        LayerType.FILL,
        LayerType.GATHER,
        LayerType.ITERATOR,
        LayerType.LOOP_OUTPUT,
        LayerType.SHUFFLE,
        LayerType.SLICE,
        LayerType.SOFTMAX,
        LayerType.NORMALIZATION,
        LayerType.PADDING,
        LayerType.POOLING,
        LayerType.QUANTIZE,
        LayerType.RESIZE,
        LayerType.SCALE,
        LayerType.SCATTER,
        LayerType.ONE_HOT,
        LayerType.CUMULATIVE,
        LayerType.REVERSE_SEQUENCE,
        LayerType.SQUEEZE,
        LayerType.UNSQUEEZE,
    }
)

# None comes from an add_ method that failed before.
MaybeTensor = ITensor | None


class AdderBase:
    """Adds layers to a graph. Every method returns the layer, or None after logging why there cannot be one."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def _add(
        self,
        view: type[L],
        kind: LayerType,
        attributes: dict[str, Any],
        inputs: Sequence[MaybeTensor],
        num_outputs: int = 1,
    ) -> L | None:
        """Add a layer, unless it is wrong already."""
        graph = self._graph
        node = Node(graph, kind, attributes, len(graph.nodes))
        for number, tensor in enumerate(inputs):
            if tensor is None:
                return self._refuse(f"{node.name}: input {number} is None; did the layer before it fail?")
            if not isinstance(tensor, ITensor):
                raise TypeError(f"input {number} of {kind} must be an ITensor, not {tensor!r}")
            if tensor._graph is not graph:
                return self._refuse(f"{node.name}: input {number}, {tensor.name}, belongs to another network")
        names = [f"{node.name}_output"]
        if num_outputs != 1:
            names = [f"{node.name}_output_{number}" for number in range(1, num_outputs + 1)]
        node.outputs = [ITensor._make(graph, name, node, index, None) for index, name in enumerate(names)]
        node.output_types = [None] * num_outputs
        for number, tensor in enumerate(inputs):
            node.connect(number, tensor)
        graph.infer(node)
        if node.error is not None and (node.fault_of_operands or kind not in MENDABLE):
            for number in range(len(inputs)):
                node.connect(number, None)
            return self._refuse(f"{node.name}: {node.error}")
        graph.nodes.append(node)
        layer = view._view(node)
        assert isinstance(layer, view)  # for the type checker
        node.view = layer
        return layer

    def _view_of(self, node: Node) -> ILayer:
        assert node.view is not None  # for the type checker: _add sets it
        return node.view

    def _refuse(self, reason: str) -> Any:
        """Log why there is nothing to return, and return None."""
        self._graph.log(Severity.ERROR, reason)
        return None
