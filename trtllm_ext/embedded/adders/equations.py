"""add_ methods of layers that a text describes: Einstein sums and assertions."""

from __future__ import annotations

from collections.abc import Sequence

from trtllm_ext.embedded.adders.base import AdderBase, MaybeTensor
from trtllm_ext.embedded.enums import LayerType
from trtllm_ext.embedded.layers.assertion import IAssertionLayer, as_message
from trtllm_ext.embedded.layers.einsum import IEinsumLayer
from trtllm_ext.embedded.tensor import ITensor
from trtllm_ext.embedded.types import text_of


class EquationAdders(AdderBase):
    """Einstein sums and assertions."""

    def add_einsum(self, inputs: Sequence[ITensor], equation: str) -> IEinsumLayer | None:
        """Sums of products of the inputs, such as `ij,jk->ik`; no ellipses, and no letter twice in one term."""
        attributes = {"equation": text_of(equation, "an equation")}
        tensors = tuple(inputs)
        if not tensors:
            return self._refuse("add_einsum needs at least one input")
        return self._add(IEinsumLayer, LayerType.EINSUM, attributes, tensors)

    def add_assertion(self, condition: MaybeTensor, message: str) -> IAssertionLayer | None:
        """An error with `message` where a boolean shape tensor has a false element, in the build or in a run."""
        attributes = {"message": as_message(message)}
        return self._add(IAssertionLayer, LayerType.ASSERTION, attributes, (condition,), num_outputs=0)
