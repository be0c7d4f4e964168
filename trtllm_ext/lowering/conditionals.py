"""Conditionals: one ONNX If each."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from onnx import GraphProto

from trtllm_ext.lowering.branches import IfView, Place
from trtllm_ext.lowering.layer import Layer
from trtllm_ext.lowering.lower_layers import lower_layers
from trtllm_ext.lowering.registry import lowers
from trtllm_ext.lowering.values import Value


@lowers("CONDITIONAL_INPUT")
def conditional_input(layer: Layer) -> Value:
    """The tensor itself: the graphs of the branches read it from outside."""
    return layer.raw(0)


@lowers("IF")
def conditional(layer: Layer) -> tuple[Value, ...]:
    """The results of the branch that the condition chooses; the other does not run."""
    view = layer.view
    assert isinstance(view, IfView)  # for mypy: the kind says so
    outside = {id(tensor): value for tensor, value in zip(view.inputs, layer.values, strict=True) if value}
    condition = outside[id(view.condition)]
    if condition.data is not None:
        chosen = 0 if condition.array() else 1
        return tuple(_branch(layer, view.branches[chosen], view.results[chosen], outside))
    emitter = layer.emitter
    found: list[list[Value]] = []
    graphs: list[tuple[GraphProto, set[str]]] = []
    for branch, results in zip(view.branches, view.results, strict=True):
        emitter.open_graph(repeats=False)
        values = _branch(layer, branch, results, outside)
        emitter.scope = view.name
        graphs.append(emitter.close_graph(values))
        found.append(values)
    outputs = [
        (value.onnx_type, tuple(tensor.shape)) for value, tensor in zip(found[0], view.outputs, strict=True)
    ]
    made = emitter.node_with_graphs("If", [condition], outputs, then_branch=graphs[0], else_branch=graphs[1])
    return tuple(_as_in_both(value, *both) for value, *both in zip(made, *found, strict=True))


def _branch(layer: Layer, branch: Place, results: Sequence[Any], outside: dict[int, Value]) -> list[Value]:
    """Emit the layers of one branch; what it gives, in the types of the outputs."""
    values = dict(outside)
    lower_layers(layer.emitter, layer.network, branch.layers, values)
    return [
        layer.emitter.cast(values[id(tensor)], layer.stored_type_of_output(index))
        for index, tensor in enumerate(results)
    ]


def _as_in_both(value: Value, then: Value, other: Value) -> Value:
    """A result with the lengths that are the same in both branches."""
    if len(then.shape) != len(value.shape) or len(other.shape) != len(value.shape):
        return value
    lengths = [a if a == b else None for a, b in zip(then.lengths, other.lengths, strict=True)]
    shape = tuple(
        length if length >= 0 else same if isinstance(same, int) else -1
        for length, same in zip(value.shape, lengths, strict=True)
    )
    symbols = tuple(None if isinstance(same, int) else same for same in lengths)
    return replace(value, shape=shape, symbols=symbols)
