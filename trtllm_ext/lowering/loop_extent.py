"""Which layers lie inside which loop."""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from trtllm_ext.lowering.errors import LoweringError
from trtllm_ext.lowering.layer_view import LayerView


@dataclass(eq=False)
class Loop:
    """The boundary layers of one loop."""

    name: str
    recurrences: list[LayerView] = field(default_factory=list)
    iterators: list[LayerView] = field(default_factory=list)
    limits: list[LayerView] = field(default_factory=list)
    outputs: list[LayerView] = field(default_factory=list)

    @property
    def boundary(self) -> list[LayerView]:
        """All of them."""
        return [*self.recurrences, *self.iterators, *self.limits, *self.outputs]

    @property
    def results(self) -> list[Any]:
        """The tensors that each iteration computes: next values, the WHILE limit, and what goes out."""
        following = [layer.inputs[1] for layer in self.recurrences]
        going_on = [layer.inputs[0] for layer in self.limits if layer.api.kind.name == "WHILE"]
        return [*following, *going_on, *(layer.inputs[0] for layer in self.outputs)]

    @property
    def given(self) -> Iterator[tuple[LayerView, Any, str]]:
        """What must be there before the loop: the layer that reads it, the tensor, and what it is to the layer."""
        for layer in self.recurrences:
            yield layer, layer.inputs[0], "its initial value"
        for layer in self.iterators:
            yield layer, layer.inputs[0], "the tensor that it iterates over"
        for layer in self.limits:
            if layer.api.kind.name == "COUNT":
                yield layer, layer.inputs[0], "the trip count"
        for layer in self.outputs:
            if len(layer.inputs) > 1:
                yield layer, layer.inputs[1], "the length of its output"


def loops_of(layers: Iterable[LayerView]) -> list[Loop]:
    """The loops of a network."""
    found: dict[int, Loop] = {}
    group = {
        "RECURRENCE": "recurrences",
        "ITERATOR": "iterators",
        "TRIP_LIMIT": "limits",
        "LOOP_OUTPUT": "outputs",
    }
    for layer in layers:
        if layer.kind in group:
            loop = found.setdefault(id(layer.construct), Loop(str(layer.construct.name)))
            getattr(loop, group[layer.kind]).append(layer)
    return list(found.values())


def extents(loops: Sequence[Loop], layers: Sequence[LayerView]) -> dict[Loop, set[LayerView]]:
    """The layers inside each loop, boundaries of loops inside it included; none in a loop without an output.

    Raises LoweringError if what should be there before a loop is computed inside it, and if two loops overlap.
    """
    links = _Links(loops, layers)
    inside = {loop: links.inside(loop) if loop.outputs else set() for loop in loops}
    containing: dict[LayerView, list[Loop]] = defaultdict(list)
    for loop in sorted(loops, key=lambda one: len(inside[one])):
        for layer in inside[loop]:
            containing[layer].append(loop)
    for layer, around in containing.items():
        for inner, outer in itertools.pairwise(around):
            if inner.boundary[0] not in inside[outer] or outer.boundary[0] in inside[inner]:
                raise LoweringError(
                    f"{layer} lies in the loops {inner.name!r} and {outer.name!r}, neither of which lies in the "
                    "other; values leave a loop by add_loop_output() only"
                )
    return inside


class _Links:
    """Who reads what; the boundary layers of a loop are one: what depends on one of them depends on all."""

    def __init__(self, loops: Sequence[Loop], layers: Sequence[LayerView]) -> None:
        self._owner = {layer: loop for loop in loops for layer in loop.boundary}
        self._producer = {id(tensor): layer for layer in layers for tensor in layer.outputs}
        self._readers: dict[int, list[LayerView]] = defaultdict(list)
        self._conditions: dict[int, LayerView] = {}
        self._choices: dict[int, list[LayerView]] = defaultdict(list)
        for layer in layers:
            for tensor in layer.inputs:
                self._readers[id(tensor)].append(layer)
            if layer.kind == "CONDITION":
                self._conditions[id(layer.construct)] = layer
            elif layer.kind == "CONDITIONAL_OUTPUT":
                self._choices[id(layer.construct)].append(layer)

    def inside(self, loop: Loop) -> set[LayerView]:
        """The layers whose results differ from iteration to iteration, and are needed for that of the loop."""
        for layer in loop.recurrences:
            if len(layer.inputs) < 2 or layer.inputs[1] is None:
                raise LoweringError(f"{layer}: input 1, the next value, is missing")
        return self.following(loop) & self.needed(loop)

    def following(self, loop: Loop) -> set[LayerView]:
        """The layers that depend on the iteration that a loop is in."""
        given = {id(tensor): (layer, what) for layer, tensor, what in loop.given}
        found: set[LayerView] = set()
        stack = [*loop.recurrences, *loop.iterators]
        while stack:
            for tensor in stack.pop().outputs:
                if id(tensor) in given:
                    reader, what = given[id(tensor)]
                    raise LoweringError(
                        f"{reader}: {what}, {tensor.name!r}, is computed inside its loop; it must come from outside"
                    )
                for reader in self._readers[id(tensor)]:
                    fresh = [layer for layer in self._behind(reader, loop) if layer not in found]
                    found.update(fresh)
                    stack.extend(fresh)
        return found

    def _behind(self, reader: LayerView, loop: Loop) -> Sequence[LayerView]:
        owner = self._owner.get(reader)
        if owner is loop:
            return ()
        if owner is not None:
            return owner.boundary
        if reader.kind == "CONDITION":
            return [reader, *self._choices[id(reader.construct)]]
        return (reader,)

    def needed(self, loop: Loop) -> set[LayerView]:
        """The layers that the results of an iteration are computed by."""
        found: set[LayerView] = set()
        stack = [self._producer.get(id(tensor)) for tensor in loop.results]
        while stack:
            layer = stack.pop()
            if layer is None or layer in found or self._owner.get(layer) is loop:
                continue
            together = self._together(layer)
            found.update(together)
            stack.extend(self._producer.get(id(tensor)) for one in together for tensor in one.inputs)
        return found

    def _together(self, layer: LayerView) -> Sequence[LayerView]:
        owner = self._owner.get(layer)
        if owner is not None:
            return owner.boundary
        if layer.kind == "CONDITIONAL_OUTPUT":
            condition = self._conditions.get(id(layer.construct))
            return (layer,) if condition is None else (layer, condition)
        return (layer,)
