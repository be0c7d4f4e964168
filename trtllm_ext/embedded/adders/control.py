"""add_ methods of loops and conditionals."""

from __future__ import annotations

from typing import Any, TypeVar

from trtllm_ext.embedded.adders.base import AdderBase, MaybeTensor
from trtllm_ext.embedded.conditionals import IIfConditional
from trtllm_ext.embedded.enums import LayerType
from trtllm_ext.embedded.layers import ILayer
from trtllm_ext.embedded.loops import ILoop

L = TypeVar("L", bound=ILayer)

# A trip limit and a condition say what happens, and give nothing.
_WITHOUT_OUTPUT = frozenset({LayerType.TRIP_LIMIT, LayerType.CONDITION})


class ControlAdders(AdderBase):
    """Loops and conditionals, whose boundary layers are made by the objects that these methods give."""

    def add_loop(self) -> ILoop:
        """A new loop, without layers."""
        loop = ILoop._make(ControlAdders(self._graph), f"(Unnamed Loop* {len(self._graph.constructs)})")
        self._graph.constructs.append(loop)
        return loop

    def add_if_conditional(self) -> IIfConditional:
        """A new conditional, without layers."""
        name = f"(Unnamed IfConditional* {len(self._graph.constructs)})"
        conditional = IIfConditional._make(ControlAdders(self._graph), name)
        self._graph.constructs.append(conditional)
        return conditional

    def _add_boundary(
        self,
        view: type[L],
        kind: LayerType,
        attributes: dict[str, Any],
        inputs: MaybeTensor | tuple[MaybeTensor, ...],
        construct: ILoop | IIfConditional,
    ) -> L | None:
        """Add a layer that belongs to a loop or conditional."""
        tensors = inputs if isinstance(inputs, tuple) else (inputs,)
        layer = self._add(view, kind, attributes, tensors, 0 if kind in _WITHOUT_OUTPUT else 1)
        if layer is not None:
            layer._node.construct = construct
            construct._nodes.append(layer._node)
        return layer
