"""Views of the layers at the boundaries of loops and conditionals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trtllm_ext.embedded.enums import LoopOutput, TripLimit
from trtllm_ext.embedded.layers.base import Attribute, ILayer, as_int

if TYPE_CHECKING:
    from trtllm_ext.embedded.conditionals import IIfConditional
    from trtllm_ext.embedded.loops import ILoop


class ILoopBoundaryLayer(ILayer):
    """A layer where data enters or leaves a loop, or that says when the loop ends."""

    __slots__ = ()

    @property
    def loop(self) -> ILoop:
        """The loop that this layer belongs to."""
        loop: ILoop = _construct_of(self, "loop")
        return loop


class IRecurrenceLayer(ILoopBoundaryLayer):
    """A value carried from one iteration to the next: input 0 at first, then what input 1 was.

    Input 0 comes from outside the loop. Input 1 is set by `set_input(1, tensor)` later, from inside the loop, and
    has the type and shape of input 0.
    """

    __slots__ = ()


class IIteratorLayer(ILoopBoundaryLayer):
    """One slice of a tensor in each iteration; the tensor comes from outside the loop."""

    __slots__ = ()
    axis = Attribute[int](as_int, "The dimension to iterate over.")
    reverse = Attribute[bool](
        bool, "Whether the slices come from the last one, by the trip count, to the first."
    )


class ITripLimitLayer(ILoopBoundaryLayer):
    """When a loop ends. It has no output."""

    __slots__ = ()

    @property
    def kind(self) -> TripLimit:
        """COUNT: after so many iterations. WHILE: before the first iteration for which the input is false."""
        kind: TripLimit = _attribute(self, "kind")
        return kind


class ILoopOutputLayer(ILoopBoundaryLayer):
    """What a loop gives: input 0 as it is in the end, or of all iterations one after another.

    For CONCATENATE and REVERSE `set_input(1, tensor)` gives the number of iterations, a 0-D shape tensor.
    """

    __slots__ = ()
    axis = Attribute[int](as_int, "The place of the new dimension; unused for LAST_VALUE.")

    @property
    def kind(self) -> LoopOutput:
        """Which of the values of the iterations are given."""
        kind: LoopOutput = _attribute(self, "kind")
        return kind


class IIfConditionalBoundaryLayer(ILayer):
    """A layer where data enters or leaves a conditional, or that chooses the branch."""

    __slots__ = ()

    @property
    def conditional(self) -> IIfConditional:
        """The conditional that this layer belongs to."""
        conditional: IIfConditional = _construct_of(self, "conditional")
        return conditional


class IConditionLayer(IIfConditionalBoundaryLayer):
    """The choice between the branches, a 0-D boolean. It has no output."""

    __slots__ = ()


class IIfConditionalInputLayer(IIfConditionalBoundaryLayer):
    """A tensor on its way into either branch, or both."""

    __slots__ = ()


class IIfConditionalOutputLayer(IIfConditionalBoundaryLayer):
    """Input 0 if the condition holds, else input 1."""

    __slots__ = ()


def _attribute(layer: ILayer, name: str) -> Any:
    try:
        return layer._node.attributes[name]
    except KeyError:
        raise AttributeError(f"{layer.name} is a {layer._node.kind}; it has no {name}") from None


def _construct_of(layer: ILayer, name: str) -> Any:
    """The loop or conditional that a layer was made by."""
    construct = layer._node.construct
    if construct is None:
        raise AttributeError(f"{layer.name} is a {layer._node.kind}; it has no {name}")
    return construct
