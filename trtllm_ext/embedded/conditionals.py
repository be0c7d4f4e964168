"""IIfConditional: what makes the boundary layers of one conditional."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtllm_ext.embedded.enums import LayerType, Severity
from trtllm_ext.embedded.layers.control import (
    IConditionLayer,
    IIfConditionalInputLayer,
    IIfConditionalOutputLayer,
)
from trtllm_ext.embedded.node import Node
from trtllm_ext.embedded.types import text_of

if TYPE_CHECKING:
    from trtllm_ext.embedded.adders.base import MaybeTensor
    from trtllm_ext.embedded.adders.control import ControlAdders


class IIfConditional:
    """A choice between two parts of the network; made by `network.add_if_conditional()`.

    A layer that only one branch needs runs only if that branch is taken. The add_ methods return None, with the
    reason logged, for what cannot be.
    """

    __slots__ = ("__weakref__", "_adders", "_name", "_nodes")

    def __init__(self) -> None:
        raise TypeError(
            "IIfConditional: No constructor defined! Conditionals are made by "
            "INetworkDefinition.add_if_conditional()."
        )

    _adders: ControlAdders
    _name: str
    _nodes: list[Node]

    @classmethod
    def _make(cls, adders: ControlAdders, name: str) -> IIfConditional:
        conditional = object.__new__(cls)
        conditional._adders, conditional._name, conditional._nodes = adders, name, []
        return conditional

    @property
    def name(self) -> str:
        """The name of the conditional in messages."""
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        self._name = text_of(name, "the name of a conditional")

    def set_condition(self, condition: MaybeTensor) -> IConditionLayer | None:
        """The choice, a 0-D boolean; it can be set once."""
        if any(node.kind == LayerType.CONDITION for node in self._nodes):
            self._adders._graph.log(
                Severity.ERROR,
                f"{self._name}: the condition is set already; use set_input(0, tensor) of its layer to change it",
            )
            return None
        return self._adders._add_boundary(IConditionLayer, LayerType.CONDITION, {}, condition, self)

    def add_input(self, input: MaybeTensor) -> IIfConditionalInputLayer | None:
        """A tensor that either branch, or both, may use through this layer's output."""
        return self._adders._add_boundary(
            IIfConditionalInputLayer, LayerType.CONDITIONAL_INPUT, {}, input, self
        )

    def add_output(
        self, true_subgraph_output: MaybeTensor, false_subgraph_output: MaybeTensor
    ) -> IIfConditionalOutputLayer | None:
        """The one tensor if the condition holds, else the other; both have the same type and shape."""
        return self._adders._add_boundary(
            IIfConditionalOutputLayer,
            LayerType.CONDITIONAL_OUTPUT,
            {},
            (true_subgraph_output, false_subgraph_output),
            self,
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name!r}>"
