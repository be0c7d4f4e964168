"""Makes a ShapeProgram of a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from trtllm_ext.embedded.enums import LayerType
from trtllm_ext.embedded.rules.demand import dimension_inputs, value_inputs
from trtllm_ext.embedded.rules.known import Known, RuleError
from trtllm_ext.embedded.rules.program import ShapeProgram
from trtllm_ext.embedded.rules.program_parts import ProgramInput, ProgramStep

if TYPE_CHECKING:
    from trtllm_ext.embedded.graph import Graph
    from trtllm_ext.embedded.network import INetworkDefinition
    from trtllm_ext.embedded.node import Node
    from trtllm_ext.embedded.tensor import ITensor


def compile_program(
    program: type[ShapeProgram],
    network: INetworkDefinition,
    tensor_names: Sequence[str] | Mapping[str, ITensor],
) -> ShapeProgram:
    """The program for the named tensors. Raises RuleError if there is no such tensor, or a layer is wrong."""
    graph = network._graph
    roots = dict(tensor_names) if isinstance(tensor_names, Mapping) else _find(network, tensor_names)
    conditions = [(tensor, True) for tensor in _conditions(graph)]
    shapes, values = _demanded([*((tensor, False) for tensor in roots.values()), *conditions])
    equal_lengths = _equal_lengths(graph.inputs)
    named = {name for places in equal_lengths.values() for name, _ in places}
    numbers: dict[ITensor, int] = {}
    steps: list[ProgramStep] = []
    stepped: set[Node] = set()

    def number_of(tensor: ITensor) -> int:
        return numbers.setdefault(tensor, len(numbers))

    for node in graph.ordered():
        if node.kind != LayerType.ASSERTION and shapes.isdisjoint(node.outputs):
            continue
        if node.known is None:
            raise RuleError(f"{node.name}: {node.error or 'a layer before it is wrong'}")
        if _is_settled(graph, node, values):
            continue
        stepped.add(node)
        steps.append(
            ProgramStep(
                kind=node.kind,
                attributes=node.rule_attributes(),
                inputs=tuple(-1 if tensor is None else number_of(tensor) for tensor in node.sources),
                outputs=tuple(number_of(tensor) for tensor in node.outputs),
                retyped=tuple(tensor._dtype_wanted for tensor in node.outputs),
                label=node.name,
            )
        )
    outputs = {name: number_of(tensor) for name, tensor in roots.items()}
    carried = _carried(graph, shapes)
    for tensor in (one for node in carried for one in node.inputs):
        if tensor is not None:
            number_of(tensor)
    inputs = [
        ProgramInput(number_of(tensor), tensor.name, tensor._spec.dtype, tensor._spec.shape)
        for tensor in graph.inputs
        if (tensor in numbers or tensor.name in named) and tensor._spec is not None
    ]
    constants = {
        number: _constant(tensor, tensor in values)
        for tensor, number in numbers.items()
        if tensor._node is not None and tensor._node not in stepped
    }
    steps += [
        _step_that_checks(node, numbers, unused) for unused, node in enumerate(carried, start=len(numbers))
    ]
    return program(
        strongly_typed=graph.strongly_typed,
        inputs=inputs,
        constants=constants,
        steps=steps,
        outputs=outputs,
        shape_inputs=[tensor.name for tensor in graph.inputs if tensor in values],
        equal_lengths=equal_lengths,
    )


def _carried(graph: Graph, shapes: set[ITensor]) -> list[Node]:
    """The recurrences of which only a run shows whether the back edge fits the initial value."""
    found = []
    for node in graph.nodes:
        if node.kind == LayerType.RECURRENCE and node.outputs[0] in shapes and len(node.inputs) > 1:
            known = [None if tensor is None else graph.known(tensor) for tensor in node.inputs]
            if any(one is not None and not one.is_exact for one in known):
                found.append(node)
    return found


def _step_that_checks(node: Node, numbers: dict[ITensor, int], unused: int) -> ProgramStep:
    """The rule of a recurrence once more, with its back edge; nothing reads the result."""
    return ProgramStep(
        kind=node.kind,
        attributes=node.rule_attributes(),
        inputs=tuple(-1 if tensor is None else numbers[tensor] for tensor in node.inputs),
        outputs=(unused,),
        retyped=(None,),
        label=node.name,
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


def _constant(tensor: ITensor, with_value: bool) -> Known:
    """What is known of the output of a settled layer, with its value only where that is asked for."""
    known = tensor._graph.known(tensor)
    assert known is not None  # for the type checker: a settled layer is right
    return known if with_value else Known(known.dtype, known.shape)


def _is_settled(graph: Graph, node: Node, values: set[ITensor]) -> bool:
    """Whether a run can bring nothing new to a layer: neither a length or value asked for, nor a reason to fail."""
    for tensor in node.outputs:
        known = graph.known(tensor)
        if known is None or not known.is_exact or (tensor in values and not _has_value(tensor, known)):
            return False
    deciding = set(dimension_inputs(node.kind, node.attributes))
    for number, operand in enumerate(node.inputs):
        known = None if operand is None else graph.known(operand)
        if operand is None or known is None:
            continue
        if not known.is_exact or (number in deciding and not _has_value(operand, known)):
            return False
    return True


def _has_value(tensor: ITensor, known: Known) -> bool:
    # The values of a constant that are not known now, being too many, will not be known later.
    return known.has_value or (tensor._node is not None and tensor._node.kind == LayerType.CONSTANT)


def _conditions(graph: Graph) -> list[ITensor]:
    """What assertions ask for, which no output needs."""
    return [
        tensor
        for node in graph.nodes
        if node.kind == LayerType.ASSERTION
        for tensor in node.inputs
        if tensor is not None
    ]


def _demanded(roots: list[tuple[ITensor, bool]]) -> tuple[set[ITensor], set[ITensor]]:
    """The tensors that `roots` are computed from, and those whose values shapes on the way depend on.

    roots: tensors, each with whether its values are asked for.

    A shape that is known beforehand does not end the way: the layers before it may still fail on the lengths of a
    run.
    """
    shapes: set[ITensor] = set()
    values: set[ITensor] = set()
    stack = list(roots)
    while stack:
        tensor, by_value = stack.pop()
        if tensor in (values if by_value else shapes):
            continue
        shapes.add(tensor)
        if by_value:
            values.add(tensor)
        node = tensor._node
        if node is not None:
            known = tensor._graph.known(tensor)
            stack += _needs(node, by_value and known is not None and not _has_value(tensor, known))
    return shapes, values


def _needs(node: Node, by_value: bool) -> list[tuple[ITensor, bool]]:
    """The inputs of a layer, and whether by value; `by_value`: its output is asked for by value."""
    count = len(node.inputs)
    kind, attributes = node.kind, node.attributes
    wanted = set(value_inputs(kind, attributes, count) if by_value else dimension_inputs(kind, attributes))
    return [(tensor, number in wanted) for number, tensor in enumerate(node.inputs) if tensor is not None]
