"""A graph while it is collected: the model's own, or one inside a node."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Set
from typing import Any

import onnx

from trtllm_ext.lowering.values import Value


class OpenGraph:
    """Nodes, inputs and outputs so far, and what is remembered of values, by name.

    What was made in the graphs around is seen inside; what is made inside is not seen around.
    around: the graph that this one lies in, None for the model's own. repeats: it is the body of a loop.
    """

    def __init__(self, around: OpenGraph | None = None, *, repeats: bool = False) -> None:
        self.around = around
        self.repeats = repeats
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.producer: dict[str, onnx.NodeProto] = {}
        self.descriptions: dict[str, onnx.ValueInfoProto] = {}
        # Of a name and an ONNX type the cast, and of the cast's name the two.
        self.casts: ChainMap[tuple[str, int], Value] = _inside(around, "casts")
        self.cast_keys: ChainMap[str, tuple[str, int]] = _inside(around, "cast_keys")
        # Of the name of a transpose what it is of, and the order of axes.
        self.transposed: ChainMap[str, tuple[Value, tuple[int, ...]]] = _inside(around, "transposed")
        # Of the memory of a constant and a second shape the name in that shape.
        self.reshaped: ChainMap[tuple[Any, ...], str] = _inside(around, "reshaped")

    def home_of(self, name: str | None) -> OpenGraph:
        """The outermost graph where the value `name` is there and that need not wait for a branch.

        name: None for a constant. So what depends on it alone is computed once and not in each iteration.
        """
        graph = self
        while graph.around is not None and graph.repeats and not graph._makes(name):
            graph = graph.around
        return graph

    def _makes(self, name: str | None) -> bool:
        return name in self.producer or any(name == info.name for info in self.inputs)

    def is_output(self, name: str) -> bool:
        """Whether an output of the graph has this name."""
        return any(info.name == name for info in self.outputs)

    def needed(self, read_inside: Mapping[str, Set[str]]) -> tuple[list[onnx.NodeProto], set[str]]:
        """The nodes that the outputs depend on, and all names that are read: what was folded leaves dead ends.

        read_inside: by the name of a node, what the graphs inside it read.
        """
        read = {info.name for info in self.outputs}
        nodes = []
        for node in reversed(self.nodes):
            if read.intersection(node.output):
                nodes.append(node)
                read.update(node.input)
                read.update(read_inside.get(node.name, ()))
        return nodes[::-1], read

    def described(self, read: Set[str]) -> list[onnx.ValueInfoProto]:
        """What is said of the shapes of values that are read."""
        declared = {info.name for info in (*self.inputs, *self.outputs)}
        return [info for key, info in self.descriptions.items() if key in read and key not in declared]


def _inside(around: OpenGraph | None, name: str) -> ChainMap[Any, Any]:
    return ChainMap() if around is None else getattr(around, name).new_child()
