"""Segments that differ in nothing but names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

    from trtllm_ext.lowering.steps import OnnxSegment


class SameSegments:
    """Finds for a segment an equal one that came before: the same nodes over the same weights."""

    def __init__(self) -> None:
        self._seen: dict[tuple[bytes, tuple[tuple[int, bytes], ...]], int] = {}

    def find_or_keep(self, number: int, segment: OnnxSegment, contents: tuple[bytes, ...]) -> int:
        """The number of the first segment that is equal to `segment`, which is `number` if there was none.

        Inputs and outputs of both then stand for each other in their order. contents: one for each of its weights,
        equal where their bytes are.
        """
        names = _Names()
        model = names.replaced(segment.model).SerializeToString(deterministic=True)
        weights = tuple(
            sorted(
                (names.number(weight.name), content)
                for weight, content in zip(segment.weights, contents, strict=True)
            )
        )
        return self._seen.setdefault((model, weights), number)


class _Names:
    """Numbers for names, in the order in which a model has them."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, name: str) -> int:
        """The number of a name; a new one for a new name."""
        return self._numbers.setdefault(name, len(self._numbers))

    def replaced(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """A copy of a model with a number for every name of a value or a dimension, and no other names.

        Names are exchanged one to one, in graphs inside of nodes too, so that two models with one copy mean the same.
        """
        copy = type(model)()
        copy.CopyFrom(model)
        for graph in _graphs(copy.graph):
            graph.name = graph.doc_string = ""
            for info in (*graph.input, *graph.output):
                self._replace_in(info)
            for tensor in graph.initializer:
                tensor.name = self._text(tensor.name)
            for node in graph.node:
                node.name = node.doc_string = ""
                node.input[:] = [self._text(name) for name in node.input]
                node.output[:] = [self._text(name) for name in node.output]
            for info in graph.value_info:
                self._replace_in(info)
        return copy

    def _replace_in(self, info: onnx.ValueInfoProto) -> None:
        info.name = self._text(info.name)
        info.doc_string = ""
        for dimension in info.type.tensor_type.shape.dim:
            if dimension.HasField("dim_param"):
                dimension.dim_param = self._text(f"dimension {dimension.dim_param}")

    def _text(self, name: str) -> str:
        return str(self.number(name)) if name else ""


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph, and those inside its nodes at any depth."""
    stack = [graph]
    while stack:
        one = stack.pop()
        yield one
        stack += [attribute.g for node in one.node for attribute in node.attribute if attribute.HasField("g")]
