"""ILoop: what makes the boundary layers of one loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtllm_ext.embedded.enums import LayerType, LoopOutput, Severity, TripLimit
from trtllm_ext.embedded.layers.base import as_int, member_of
from trtllm_ext.embedded.layers.control import (
    IIteratorLayer,
    ILoopOutputLayer,
    IRecurrenceLayer,
    ITripLimitLayer,
)
from trtllm_ext.embedded.node import Node
from trtllm_ext.embedded.types import text_of

if TYPE_CHECKING:
    from trtllm_ext.embedded.adders.base import MaybeTensor
    from trtllm_ext.embedded.adders.control import ControlAdders


class ILoop:
    """A part of the network that runs again and again; made by `network.add_loop()`.

    Inside the loop lies whatever depends on its recurrences and iterators and is needed for its outputs, for the
    next values of its recurrences, or for its WHILE limit. Tensors from outside are used inside as they are; values
    leave by loop outputs only. The add_ methods return None, with the reason logged, for what cannot be.
    """

    __slots__ = ("__weakref__", "_adders", "_name", "_nodes")

    def __init__(self) -> None:
        raise TypeError("ILoop: No constructor defined! Loops are made by INetworkDefinition.add_loop().")

    _adders: ControlAdders
    _name: str
    _nodes: list[Node]

    @classmethod
    def _make(cls, adders: ControlAdders, name: str) -> ILoop:
        loop = object.__new__(cls)
        loop._adders, loop._name, loop._nodes = adders, name, []
        return loop

    @property
    def name(self) -> str:
        """The name of the loop in messages."""
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        self._name = text_of(name, "the name of a loop")

    def add_recurrence(self, initial_value: MaybeTensor) -> IRecurrenceLayer | None:
        """A value carried from iteration to iteration; the next one is set by `set_input(1, tensor)`."""
        return self._adders._add_boundary(IRecurrenceLayer, LayerType.RECURRENCE, {}, initial_value, self)

    def add_trip_limit(self, tensor: MaybeTensor, kind: TripLimit) -> ITripLimitLayer | None:
        """When the loop ends. At most one of each kind: with both, the loop ends with the first that says so."""
        kind = member_of(TripLimit)(kind)
        if any(node.kind == LayerType.TRIP_LIMIT and node.attributes["kind"] == kind for node in self._nodes):
            self._adders._graph.log(
                Severity.ERROR,
                f"{self._name}: there is a trip limit of kind {kind.name} already; one is allowed",
            )
            return None
        return self._adders._add_boundary(ITripLimitLayer, LayerType.TRIP_LIMIT, {"kind": kind}, tensor, self)

    def add_iterator(
        self, tensor: MaybeTensor, axis: int = 0, reverse: bool = False
    ) -> IIteratorLayer | None:
        """Slice i of a tensor in iteration i; with `reverse` slice count - 1 - i, by the trip limit of kind COUNT."""
        attributes = {"axis": as_int(axis), "reverse": bool(reverse)}
        return self._adders._add_boundary(IIteratorLayer, LayerType.ITERATOR, attributes, tensor, self)

    def add_loop_output(
        self, tensor: MaybeTensor, kind: LoopOutput, axis: int = 0
    ) -> ILoopOutputLayer | None:
        """The value that a tensor, of a recurrence for LAST_VALUE, has in the end; or those of all iterations.

        CONCATENATE and REVERSE need their number, too: `set_input(1, tensor)`, a 0-D shape tensor.
        """
        attributes = {"kind": member_of(LoopOutput)(kind), "axis": as_int(axis)}
        return self._adders._add_boundary(ILoopOutputLayer, LayerType.LOOP_OUTPUT, attributes, tensor, self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name!r}>"
