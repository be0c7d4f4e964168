"""Conditionals as one layer each, with the layers that only one branch needs inside it."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trtllm_ext.lowering.errors import LoweringError
from trtllm_ext.lowering.layer_view import LayerView
from trtllm_ext.lowering.ordering import in_order
from trtllm_ext.lowering.unit import Unit


class Place:
    """Where a layer runs: in a branch of a conditional, or in none. `layers` are in order of execution."""

    def __init__(self, around: "Place | None" = None) -> None:
        self.around: Place = self if around is None else around
        self.depth: int = 0 if around is None else around.depth + 1
        self.layers: list[LayerView] = []

    def common(self, other: "Place") -> "Place":
        """The innermost place that both lie in."""
        one, two = self, other
        while one is not two:
            if one.depth >= two.depth:
                one = one.around
            else:
                two = two.around
        return one


class IfView(Unit):
    """A conditional. branches: the layers of the one for true, then of the one for false; results: what each gives."""

    way_out = "add_output()"

    def __init__(self, condition: LayerView, choices: Sequence[LayerView]) -> None:
        super().__init__("IF", str(condition.construct.name))
        self.condition = condition.inputs[0]
        self.results = tuple([choice.inputs[number] for choice in choices] for number in (0, 1))
        self.branches: tuple[Place, Place] = (Place(), Place())
        self._boundary = [condition, *choices]
        self._choices = choices
        self.inputs = [self.condition, *self.results[0], *self.results[1]]
        self.outputs = [tensor for choice in choices for tensor in choice.outputs]

    def put(self, place: Place) -> None:
        """Lie in `place`."""
        self.branches = (Place(place), Place(place))

    def settle(self) -> None:
        """Read from outside what the branches do, now that they have their layers."""
        body = [layer for branch in self.branches for layer in branch.layers]
        made = [tensor for layer in body for tensor in layer.outputs]
        self.enclose(self._boundary, body, made, self._choices)


def with_branches(
    layers: Iterable[LayerView], tensors: Sequence[Any], conditions: Mapping[int, LayerView]
) -> list[LayerView]:
    """The layers that `tensors` need, in order of execution, with every conditional that lies in no other as one.

    conditions: the condition layers by the id of their conditional.
    """
    plain: list[LayerView] = []
    choices: dict[int, list[LayerView]] = defaultdict(list)
    # An output that nobody needs here may read from a loop elsewhere.
    for layer in _needed(layers, tensors, conditions):
        if layer.kind == "CONDITIONAL_OUTPUT":
            choices[id(layer.construct)].append(layer)
        elif layer.kind != "CONDITION":
            plain.append(layer)
    views = [IfView(_condition_of(of_one[0], conditions), of_one) for of_one in choices.values()]
    producer = {id(tensor): layer for layer in (*plain, *views) for tensor in layer.outputs}
    ordered = in_order(tensors, lambda tensor, reader: producer.get(id(tensor)))
    return _distributed(ordered, tensors) if views else ordered


def _needed(
    layers: Iterable[LayerView], tensors: Iterable[Any], conditions: Mapping[int, LayerView]
) -> list[LayerView]:
    """Those of the layers that the tensors depend on, in the order given."""
    layers = list(layers)
    producer = {id(tensor): layer for layer in layers for tensor in layer.outputs}
    found: set[LayerView] = set()
    stack = [producer.get(id(tensor)) for tensor in tensors]
    while stack:
        layer = stack.pop()
        if layer is None or layer in found:
            continue
        found.add(layer)
        read = list(layer.inputs)
        if layer.kind == "CONDITIONAL_OUTPUT":
            read += _condition_of(layer, conditions).inputs
        stack.extend(producer.get(id(tensor)) for tensor in read)
    return [layer for layer in layers if layer in found]


def _condition_of(choice: LayerView, conditions: Mapping[int, LayerView]) -> LayerView:
    try:
        return conditions[id(choice.construct)]
    except KeyError:
        raise LoweringError(f"{choice}: its conditional has no condition") from None


def _distributed(ordered: list[LayerView], tensors: Sequence[Any]) -> list[LayerView]:
    """The layers of no branch; all others go to theirs."""
    outermost = Place()
    read_in: dict[int, list[Place]] = defaultdict(list)
    for tensor in tensors:
        read_in[id(tensor)].append(outermost)
    place: dict[LayerView, Place] = {}
    for layer in reversed(ordered):
        found: Place | None = None
        for tensor in layer.outputs:
            for one in read_in[id(tensor)]:
                found = one if found is None else found.common(one)
        assert found is not None  # for mypy: only what is read is in `ordered`
        place[layer] = found
        for tensor, where in _reads(layer, found):
            read_in[id(tensor)].append(where)
    for layer in ordered:
        place[layer].layers.append(layer)
        if isinstance(layer, IfView):
            layer.settle()
    return outermost.layers


def _reads(layer: LayerView, place: Place) -> list[tuple[Any, Place]]:
    """What a layer reads, and where."""
    if not isinstance(layer, IfView):
        return [(tensor, place) for tensor in layer.inputs if tensor is not None]
    layer.put(place)
    chosen = [
        (tensor, branch)
        for branch, results in zip(layer.branches, layer.results, strict=True)
        for tensor in results
    ]
    return [(layer.condition, place), *chosen]
