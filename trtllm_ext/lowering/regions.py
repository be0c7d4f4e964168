"""Loops and conditionals as one layer each, with the layers that run inside them.

A layer lies in a loop if it depends on a recurrence or iterator of it and is needed for its outputs, its next values
or its WHILE limit. It lies in a branch of a conditional if nothing but that branch needs it. Order of creation says
nothing of either.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from trtllm_ext.lowering.branches import with_branches
from trtllm_ext.lowering.layer_view import LayerView
from trtllm_ext.lowering.loop_extent import Loop, extents, loops_of
from trtllm_ext.lowering.ordering import in_order
from trtllm_ext.lowering.unit import Unit

_BOUNDARIES = frozenset(
    {
        "RECURRENCE",
        "ITERATOR",
        "TRIP_LIMIT",
        "LOOP_OUTPUT",
        "CONDITION",
        "CONDITIONAL_INPUT",
        "CONDITIONAL_OUTPUT",
    }
)


class LoopView(Unit):
    """A loop. inputs: what it reads from outside; outputs: what its loop outputs give; body: in order of execution."""

    way_out = "add_loop_output()"

    def __init__(self, loop: Loop, body: list[LayerView]) -> None:
        super().__init__("LOOP", loop.name)
        self.loop = loop
        self.body = body
        made = [tensor for layer in (*loop.recurrences, *loop.iterators, *body) for tensor in layer.outputs]
        self.enclose(loop.boundary, body, made, loop.outputs)

    def needed_by(self, tensor: Any) -> list[LayerView]:
        """The layers of the body that a tensor depends on, in order of execution."""
        producer = {id(made): layer for layer in self.body for made in layer.outputs}
        return in_order([tensor], lambda read, reader: producer.get(id(read)))


def with_regions(layers: Sequence[LayerView], outputs: Sequence[Any]) -> Sequence[LayerView]:
    """Layers that a network needs with every loop and every conditional that lies in no other replaced by one view.

    outputs: of the network. Loops that it does not need follow behind. Raises LoweringError for what is
    neither inside a loop nor outside.
    """
    if not any(layer.kind in _BOUNDARIES for layer in layers):
        return layers
    loops = loops_of(layers)
    inside = extents(loops, layers)
    conditions = {id(layer.construct): layer for layer in layers if layer.kind == "CONDITION"}
    place: dict[LayerView, LayerView] = {layer: layer for layer in layers}
    # What lies in a loop lies in fewer layers than the loop itself.
    for loop in sorted(loops, key=lambda one: len(inside[one])):
        items = dict.fromkeys(place[layer] for layer in layers if layer in inside[loop])
        view = LoopView(loop, with_branches(items, loop.results, conditions))
        for layer in (*inside[loop], *loop.boundary):
            place[layer] = view
    outermost = dict.fromkeys(place.values())
    needed = with_branches(outermost, outputs, conditions)
    # The rest says what is wrong with a value that leaves a loop by no loop output.
    return [*needed, *(view for view in outermost if isinstance(view, LoopView) and view not in needed)]


def all_inside(layers: Iterable[LayerView]) -> Iterator[LayerView]:
    """The layers, and those inside of them at any depth."""
    stack = list(layers)[::-1]
    while stack:
        layer = stack.pop()
        yield layer
        stack.extend(layer.inner)
