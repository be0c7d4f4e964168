"""What keeps loops and conditionals from being built, beyond what the rules of their layers see."""

from collections.abc import Iterator

from trtllm_ext.embedded.conditionals import IIfConditional
from trtllm_ext.embedded.enums import LayerType, LoopOutput, TripLimit
from trtllm_ext.embedded.graph import Graph
from trtllm_ext.embedded.loops import ILoop
from trtllm_ext.embedded.node import Node
from trtllm_ext.embedded.rules import RuleError
from trtllm_ext.embedded.rules.control import require_fit


def control_errors(graph: Graph) -> list[str]:
    """One sentence for each fault, naming the loop, the conditional or the layer.

    Loops and conditionals without an output do nothing, and are not looked at.
    """
    errors: list[str] = []
    for construct in graph.constructs:
        errors += (
            _loop_errors(graph, construct) if isinstance(construct, ILoop) else _choice_errors(construct)
        )
    return errors


def _choice_errors(conditional: IIfConditional) -> Iterator[str]:
    kinds = {node.kind for node in conditional._nodes}
    if LayerType.CONDITIONAL_OUTPUT in kinds and LayerType.CONDITION not in kinds:
        yield f"{conditional.name}: there is no condition; set one with set_condition()"


def _loop_errors(graph: Graph, loop: ILoop) -> Iterator[str]:
    kinds = {node.kind for node in loop._nodes}
    if LayerType.LOOP_OUTPUT not in kinds:
        return
    if LayerType.TRIP_LIMIT not in kinds:
        yield f"{loop.name}: there is no trip limit, so it would never end; add one with add_trip_limit()"
    is_counted = any(node.attributes.get("kind") == TripLimit.COUNT for node in loop._nodes)
    for node in loop._nodes:
        error = None
        if node.kind == LayerType.RECURRENCE:
            error = _recurrence_error(graph, node)
        elif node.kind == LayerType.LOOP_OUTPUT:
            error = _output_error(node, loop)
        elif node.kind == LayerType.ITERATOR and node.attributes["reverse"] and not is_counted:
            error = "iterates in reverse, which starts from the number of iterations; add a trip limit of kind COUNT"
        if error is not None:
            yield f"{node.name}: {error}"


def _recurrence_error(graph: Graph, node: Node) -> str | None:
    initial, following = node.inputs[0], node.inputs[1] if len(node.inputs) > 1 else None
    if following is None:
        return "what the next iteration starts from is missing; give it with set_input(1, tensor)"
    if initial is None:
        return None  # its rule has said so
    first, after = graph.known(initial), graph.known(following)
    if first is None or after is None:
        return None
    try:
        require_fit(first, after, graph.strongly_typed)
    except RuleError as error:
        return str(error)
    return None


def _output_error(node: Node, loop: ILoop) -> str | None:
    value = node.inputs[0]
    source = None if value is None else value._node
    if node.attributes["kind"] != LoopOutput.LAST_VALUE:
        if len(node.inputs) < 2 or node.inputs[1] is None:
            return "the number of values to concatenate is missing; give it with set_input(1, tensor)"
    elif value is not None and (
        source is None or source.kind != LayerType.RECURRENCE or source.construct is not loop
    ):
        return f"LAST_VALUE is given of a recurrence of the same loop only, which {value.name} is not"
    return None
