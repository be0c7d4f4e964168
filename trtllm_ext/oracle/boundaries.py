"""The boundaries of loops and conditionals in a network, and which layers lie inside which loop."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Protocol

from trtllm_ext.oracle.call import kind_of
from trtllm_ext.oracle.values import member_name

CLASS_OF = {
    "RECURRENCE": "IRecurrenceLayer",
    "ITERATOR": "IIteratorLayer",
    "TRIP_LIMIT": "ITripLimitLayer",
    "LOOP_OUTPUT": "ILoopOutputLayer",
    "CONDITION": "IConditionLayer",
    "CONDITIONAL_INPUT": "IIfConditionalInputLayer",
    "CONDITIONAL_OUTPUT": "IIfConditionalOutputLayer",
}
_OF_LOOPS = frozenset({"RECURRENCE", "ITERATOR", "TRIP_LIMIT", "LOOP_OUTPUT"})


class Graph(Protocol):
    """The part of the interpreter's graph that is needed here."""

    trt: Any
    layers: list[Any]
    layer_inputs: list[list[Any]]
    layer_outputs: list[list[Any]]
    position: dict[Any, int]


@dataclass(eq=False)
class Loop:
    """The boundary layers of a loop, by position, as found in the network."""

    name: str
    recurrences: list[int] = field(default_factory=list)
    iterators: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    limits: dict[str, Any] = field(default_factory=dict)


class Boundaries:
    """What a network says of its loops and conditionals.

    kinds: of the layers. loop_of: the loop of a boundary layer, by position. condition_of: the condition, by the id
    of its conditional. inside: for each layer the loops in whose iterations its outputs differ.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.kinds = [kind_of(layer, graph.trt) for layer in graph.layers]
        self.loop_of: dict[int, Loop] = {}
        self.condition_of: dict[Any, Any] = {}
        self._owners: list[Any] = []
        self._find()
        self.inside = self._loops_around_layers()

    def _find(self) -> None:
        loops: dict[int, Loop] = {}
        for index, kind in enumerate(self.kinds):
            if kind not in CLASS_OF:
                continue
            layer = self._graph.layers[index]
            layer.__class__ = getattr(self._graph.trt, CLASS_OF[kind])
            owner = layer.loop if kind in _OF_LOOPS else layer.conditional
            # Held, so that no other object can take its identity.
            self._owners.append(owner)
            if kind == "CONDITION":
                self.condition_of[id(owner)] = self._graph.layer_inputs[index][0]
            if kind not in _OF_LOOPS:
                continue
            loop = self.loop_of[index] = loops.setdefault(id(owner), Loop(str(owner.name)))
            if kind == "TRIP_LIMIT":
                loop.limits[member_name(layer.kind)] = self._graph.layer_inputs[index][0]
            else:
                group = {
                    "RECURRENCE": loop.recurrences,
                    "ITERATOR": loop.iterators,
                    "LOOP_OUTPUT": loop.outputs,
                }
                group[kind].append(index)

    def _loops_around_layers(self) -> list[set[Loop]]:
        """For each layer the loops in whose iterations its outputs differ."""
        inside: list[set[Loop]] = [set() for _ in self.kinds]
        readers: dict[Any, list[int]] = defaultdict(list)
        for index, inputs in enumerate(self._graph.layer_inputs):
            for tensor in inputs:
                readers[tensor].append(index)
        members: dict[Loop, list[int]] = defaultdict(list)
        for index, loop in self.loop_of.items():
            members[loop].append(index)
            if self.kinds[index] in ("RECURRENCE", "ITERATOR"):
                inside[index].add(loop)
        pending = list(range(len(self.kinds)))
        while pending:
            index = pending.pop()
            own = self.loop_of.get(index)
            affected = [reader for out in self._graph.layer_outputs[index] for reader in readers[out]]
            if own is not None:
                affected += members[own]
            if self.kinds[index] == "CONDITION":
                affected += self._choices_of(index)
            for other in affected:
                other_s = self.loop_of.get(other)
                passed = set(inside[index])
                # Through one boundary layer all others depend on what lies around the loop, not on the loop itself.
                if other_s is not None and (
                    other_s is own or self.kinds[other] in ("LOOP_OUTPUT", "TRIP_LIMIT")
                ):
                    passed.discard(other_s)
                if not passed <= inside[other]:
                    inside[other] |= passed
                    pending.append(other)
        return inside

    def _choices_of(self, condition: int) -> list[int]:
        owner = self._graph.layers[condition].conditional
        return [
            index
            for index, kind in enumerate(self.kinds)
            if kind == "CONDITIONAL_OUTPUT" and self._graph.layers[index].conditional is owner
        ]
