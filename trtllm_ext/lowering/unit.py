"""Several layers of a network that are one node of a model."""

from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

from trtllm_ext.lowering.layer_view import LayerView

# There is no layer whose attributes could be set.
_NOTHING_SET = SimpleNamespace(precision_is_set=False)


class Unit(LayerView):
    """Layers seen as one: reads what they read from outside, gives what its boundary layers give.

    boundary: the layers that the loop or conditional itself consists of; body: those that run inside, themselves
    units perhaps; made_inside: the tensors that nobody outside may read; outputs: the boundary layers that give.
    """

    def __init__(self, kind: str, name: str) -> None:
        self.kind = kind
        self.name = name
        self.api = _NOTHING_SET
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []

    def enclose(
        self,
        boundary: Sequence[LayerView],
        body: Sequence[LayerView],
        made_inside: Iterable[Any],
        outputs: Iterable[LayerView],
    ) -> None:
        """Say what the unit consists of."""
        self.inner = [*boundary, *body]
        made = {id(tensor): tensor for tensor in made_inside}
        read = {id(tensor): tensor for layer in self.inner for tensor in layer.inputs if tensor is not None}
        self.inputs = [tensor for key, tensor in read.items() if key not in made]
        self.outputs = [tensor for layer in outputs for tensor in layer.outputs]
        self.inner_tensors = [*made.values(), *(tensor for layer in body for tensor in layer.inner_tensors)]
