"""The view of the layer that sums products by Einstein's convention."""

from __future__ import annotations

from trtllm_ext.embedded.enums import Severity
from trtllm_ext.embedded.layers.base import ILayer
from trtllm_ext.embedded.rules.einsum import terms_of
from trtllm_ext.embedded.rules.known import RuleError
from trtllm_ext.embedded.types import text_of


class IEinsumLayer(ILayer):
    """Sum of products along the dimensions that an equation names."""

    __slots__ = ()

    @property
    def equation(self) -> str:
        """One letter for each dimension, such as `ij,jk->ik`. One that cannot be read changes nothing."""
        equation: str = self._node.attributes["equation"]
        return equation

    @equation.setter
    def equation(self, equation: str) -> None:
        node, text = self._node, text_of(equation, "an equation")
        try:
            terms_of(text)
        except RuleError as error:
            node.graph.log(Severity.ERROR, f"{node.name}: {error}")
            return
        node.set_attribute("equation", text)
