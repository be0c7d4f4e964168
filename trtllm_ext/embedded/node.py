"""A layer as the network keeps it; what users hold are views of it (`layers`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trtllm_ext.embedded.enums import DataType, LayerType

if TYPE_CHECKING:
    from trtllm_ext.embedded.conditionals import IIfConditional
    from trtllm_ext.embedded.graph import Graph
    from trtllm_ext.embedded.layers.base import ILayer
    from trtllm_ext.embedded.loops import ILoop
    from trtllm_ext.embedded.rules import Known
    from trtllm_ext.embedded.tensor import ITensor

# Names in "(Unnamed Layer* 7) [Shuffle]", as TensorRT writes them.
_TITLES = {LayerType.ELEMENTWISE: "ElementWise", LayerType.SOFTMAX: "SoftMax", LayerType.TOPK: "TopK"}


class Node:
    """Attributes, inputs and outputs of one layer, and what has been inferred of the outputs.

    `known` is valid while `settled`; it is None if the outputs cannot be known, by `error` of this layer or, where
    that is None, of one before it. `fault_of_operands` says that no attribute can mend the error. `construct` is the
    loop or conditional that the layer is a boundary of.
    """

    __slots__ = (
        "attributes",
        "construct",
        "error",
        "fault_of_operands",
        "graph",
        "index",
        "inputs",
        "kind",
        "known",
        "metadata",
        "name",
        "output_types",
        "outputs",
        "plain_view",
        "precision",
        "reported",
        "settled",
        "view",
    )

    def __init__(self, graph: Graph, kind: LayerType, attributes: dict[str, Any], index: int) -> None:
        self.graph = graph
        self.kind = kind
        self.attributes = attributes
        self.construct: ILoop | IIfConditional | None = None
        self.index = index
        self.inputs: list[ITensor | None] = []
        self.outputs: list[ITensor] = []
        self.name = f"(Unnamed Layer* {index}) [{_TITLES.get(kind) or kind.name.title().replace('_', '')}]"
        self.metadata = ""
        self.precision: DataType | None = None
        self.output_types: list[DataType | None] = []
        self.known: list[Known] | None = None
        self.error: str | None = None
        self.fault_of_operands = False
        self.reported = False
        self.settled = False
        self.view: ILayer | None = None
        self.plain_view: ILayer | None = None

    def set_attribute(self, name: str, value: Any) -> None:
        """Change an attribute; what was inferred from the old one is forgotten."""
        self.attributes[name] = value
        self.graph.invalidate(self)

    def connect(self, index: int, tensor: ITensor | None) -> None:
        """Make `tensor` input `index`; inputs between the last one and it are unset."""
        while len(self.inputs) <= index:
            self.inputs.append(None)
        old = self.inputs[index]
        if old is not None:
            old._drop_consumer(self)
        self.inputs[index] = tensor
        if tensor is not None:
            tensor._add_consumer(self)
        self.graph.invalidate(self)

    @property
    def sources(self) -> list[ITensor | None]:
        """The inputs that must be there before this layer: all but the back edge of a recurrence."""
        return self.inputs[:1] if self.kind == LayerType.RECURRENCE else self.inputs

    def rule_attributes(self) -> dict[str, Any]:
        """The attributes as the rules take them: with what was asked of the output types."""
        if any(dtype is not None for dtype in self.output_types):
            return self.attributes | {"output_types": tuple(self.output_types)}
        return self.attributes
