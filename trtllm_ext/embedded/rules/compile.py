"""Makes a ShapeProgram of a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trtllm_ext.embedded.enums import LayerType
from trtllm_ext.embedded.rules.demand import dimension_inputs, value_inputs
from trtllm_ext.embedded.rules.known import Known, RuleError
from trtllm_ext.embedded.rules.program import ShapeProgram, _Input, _Step

if TYPE_CHECKING:
    from trtllm_ext.embedded.network import INetworkDefinition
    from trtllm_ext.embedded.node import Node
    from trtllm_ext.embedded.tensor import ITensor


def compile_program(
    program: type[ShapeProgram], network: INetworkDefinition, tensor_names: Sequence[str]
) -> ShapeProgram:
    """The program for the named tensors. Raises RuleError if there is no such tensor, or a layer is wrong."""
    graph = network._graph
    roots = _find(network, tensor_names)
    shapes, values = _demanded(network, list(roots.values()))
    equal_lengths = _equal_lengths(graph.inputs)
    named = {name for places in equal_lengths.values() for name, _ in places}
    numbers: dict[ITensor, int] = {}
    constants: dict[int, Known] = {}
    steps: list[_Step] = []

    def number_of(tensor: ITensor) -> int:
        return numbers.setdefault(tensor, len(numbers))

    inputs = [
        _Input(number_of(tensor), tensor.name, tensor._spec.dtype, tensor._spec.shape)
        for tensor in graph.inputs
        if (tensor in shapes or tensor.name in named) and tensor._spec is not None
    ]
    for node in graph.ordered():
        if not any(tensor in shapes for tensor in node.outputs):
            continue
        if node.known is None:
            raise RuleError(f"{node.name}: {node.error or 'a layer before it is wrong'}")
        if all(
            _is_settled(tensor, known, values) for tensor, known in zip(node.outputs, node.known, strict=True)
        ):
            for tensor, known in zip(node.outputs, node.known, strict=True):
                kept = known if tensor in values else Known(known.dtype, known.shape)
                constants[number_of(tensor)] = kept
            continue
        steps.append(
            _Step(
                kind=node.kind,
                attributes=node.rule_attributes(),
                inputs=tuple(-1 if tensor is None else number_of(tensor) for tensor in node.inputs),
                outputs=tuple(number_of(tensor) for tensor in node.outputs),
                retyped=tuple(tensor._dtype_wanted for tensor in node.outputs),
                label=node.name,
            )
        )
    return program(
        strongly_typed=graph.strongly_typed,
        inputs=inputs,
        constants=constants,
        steps=steps,
        outputs={name: number_of(tensor) for name, tensor in roots.items()},
        shape_inputs=[tensor.name for tensor in graph.inputs if tensor in values],
        equal_lengths=equal_lengths,
    )


def _equal_lengths(inputs: Sequence[ITensor]) -> dict[str, list[tuple[str, int]]]:
    """The dimensions of the inputs by the name they were given, where at least two have it."""
    places: dict[str, list[tuple[str, int]]] = {}
    for tensor in inputs:
        rank = 0 if tensor._spec is None else len(tensor._spec.shape)
        for axis, name in sorted(tensor._dimension_names.items()):
            if axis < rank:
                places.setdefault(name, []).append((tensor.name, axis))
    return {name: found for name, found in places.items() if len(found) > 1}


def _find(network: INetworkDefinition, names: Sequence[str]) -> dict[str, ITensor]:
    """The tensors of these names: inputs and outputs first, since their names are unique."""
    graph = network._graph
    by_name: dict[str, ITensor] = {}
    for node in graph.nodes:
        for tensor in node.outputs:
            by_name.setdefault(tensor.name, tensor)
    by_name |= {tensor.name: tensor for tensor in (*graph.shape_outputs, *graph.outputs, *graph.inputs)}
    missing = [name for name in names if name not in by_name]
    if missing:
        raise RuleError(f"there is no tensor {missing[0]!r} in the network")
    return {name: by_name[name] for name in names}


def _is_settled(tensor: ITensor, known: Known, values: set[ITensor]) -> bool:
    """Whether all that will be asked of a tensor is known already."""
    return known.is_exact and (tensor not in values or known.has_value or _is_constant(tensor))


def _is_constant(tensor: ITensor) -> bool:
    # The values of a constant that are not known now, being too many, will not be known later.
    return tensor._node is not None and tensor._node.kind == LayerType.CONSTANT


def _demanded(network: INetworkDefinition, roots: list[ITensor]) -> tuple[set[ITensor], set[ITensor]]:
    """The tensors whose shape, and those whose values, the shapes of `roots` depend on."""
    graph = network._graph
    shapes: set[ITensor] = set()
    values: set[ITensor] = set()
    stack: list[tuple[ITensor, bool]] = [(tensor, False) for tensor in roots]
    while stack:
        tensor, by_value = stack.pop()
        if tensor in (values if by_value else shapes):
            continue
        shapes.add(tensor)
        if by_value:
            values.add(tensor)
        known, node = graph.known(tensor), tensor._node
        if node is None or (known is not None and _is_settled(tensor, known, values)):
            continue
        stack += _needs(node, tensor in values)
    return shapes, values


def _needs(node: Node, by_value: bool) -> list[tuple[ITensor, bool]]:
    count = len(node.inputs)
    wanted = set(value_inputs(node.kind, count) if by_value else dimension_inputs(node.kind))
    return [(tensor, number in wanted) for number, tensor in enumerate(node.inputs) if tensor is not None]
