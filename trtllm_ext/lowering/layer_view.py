"""One layer of a network, as the lowering sees it."""

from collections.abc import Sequence
from typing import Any

# Layer classes whose name does not follow from the kind (`MATRIX_MULTIPLY` -> `IMatrixMultiplyLayer`).
_CLASS_NAME = {
    "ELEMENTWISE": "IElementWiseLayer",
    "SOFTMAX": "ISoftMaxLayer",
    "TOPK": "ITopKLayer",
    "PARAMETRIC_RELU": "IParametricReLULayer",
    "CONDITIONAL_INPUT": "IIfConditionalInputLayer",
    "CONDITIONAL_OUTPUT": "IIfConditionalOutputLayer",
}

# Layers of the application's own code; one that is written out as other layers has a kind of its own here.
PLUGINS = frozenset({"PLUGIN", "PLUGIN_V2", "PLUGIN_V3"})
EXPANSION = "EXPANSION"

# The property by which a boundary layer names the loop or conditional that it belongs to.
_CONSTRUCT = {
    "RECURRENCE": "loop",
    "ITERATOR": "loop",
    "TRIP_LIMIT": "loop",
    "LOOP_OUTPUT": "loop",
    "CONDITION": "conditional",
    "CONDITIONAL_INPUT": "conditional",
    "CONDITIONAL_OUTPUT": "conditional",
}


class LayerView:
    """One layer: its kind by TensorRT's name, its tensors, and its attributes through `api`.

    What runs inside, if anything does: `inner` are the layers, `inner_tensors` what they make and nobody outside may
    read, `way_out` the method by which a value gets out.
    """

    inner: Sequence["LayerView"] = ()
    inner_tensors: Sequence[Any] = ()
    way_out = ""

    def __init__(self, layer: Any, trt: Any) -> None:
        self.kind: str = _kind_of(layer, trt)
        self.api = _as_own_class(layer, self.kind, trt)
        self.name: str = layer.name
        # Kept, so that it keeps its identity: the loop or conditional that the layer is a boundary of.
        self.construct: Any = getattr(self.api, _CONSTRUCT[self.kind]) if self.kind in _CONSTRUCT else None
        self.inputs: list[Any] = [layer.get_input(index) for index in range(layer.num_inputs)]
        self.outputs: list[Any] = [layer.get_output(index) for index in range(layer.num_outputs)]

    def __repr__(self) -> str:
        return f"layer {self.name!r} ({self.kind})"


def _kind_of(layer: Any, trt: Any) -> str:
    # Not `layer.type`: an IActivationLayer hides the layer's type behind the activation's.
    kind = trt.ILayer.type.__get__(layer, type(layer))
    # A member that the bindings have no name for has one of question marks.
    return f"number {int(kind)}" if "?" in kind.name else str(kind.name)


def _as_own_class(layer: Any, kind: str, trt: Any) -> Any:
    """The layer as an object of its own class, which shows its attributes, where the module has that class."""
    name = _CLASS_NAME.get(kind) or "I" + "".join(word.capitalize() for word in kind.split("_")) + "Layer"
    own_class = getattr(trt, name, None)
    if own_class is not None and not isinstance(layer, own_class):
        layer.__class__ = own_class
    return layer
