"""An `INetworkDefinition` seen through TensorRT's public API: layers in execution order, who reads which tensor."""

from collections import defaultdict
from collections.abc import Set
from typing import Any

from trtllm_ext.lowering.errors import LoweringError
from trtllm_ext.lowering.steps import Source
from trtllm_ext.lowering.values import Element, Symbol

# Layer classes whose name does not follow from the kind (`MATRIX_MULTIPLY` -> `IMatrixMultiplyLayer`).
_CLASS_NAME = {"ELEMENTWISE": "IElementWiseLayer", "SOFTMAX": "ISoftMaxLayer", "TOPK": "ITopKLayer"}


class NetworkView:
    """Layers and tensors of one network; holds them so that object identity stays meaningful.

    network, trt: the `INetworkDefinition` and the module that it belongs to.
    """

    def __init__(self, network: Any, trt: Any) -> None:
        self.trt = trt
        self.inputs = [network.get_input(index) for index in range(network.num_inputs)]
        self.outputs = [network.get_output(index) for index in range(network.num_outputs)]
        self.strongly_typed = _strongly_typed(network, trt)
        self.output_ids = {id(tensor) for tensor in self.outputs}
        layers = [LayerView(network.get_layer(index), trt) for index in range(network.num_layers)]
        self._producer = {id(tensor): layer for layer in layers for tensor in layer.outputs}
        self.layers = self._ordered()
        self.positive: set[Symbol] = set()
        # Weights that stay exchangeable in the engine.
        self.refittable: Set[Source] = frozenset()
        # By the id of a tensor that a dequantize layer makes.
        self.dequantized: dict[int, Any] = {}
        self.readers: dict[int, int] = defaultdict(int)
        for layer in self.layers:
            for tensor in layer.inputs:
                self.readers[id(tensor)] += 1

    def read_once(self, tensor: Any) -> bool:
        """Whether one layer input is all that sees `tensor`."""
        return self.readers[id(tensor)] == 1 and id(tensor) not in self.output_ids

    def producer(self, tensor: Any) -> "LayerView | None":
        """The layer that makes `tensor`; None for an input of the network."""
        return self._producer.get(id(tensor))

    def may_be_zero(self, length: Element) -> bool:
        """Whether a length is 0, or may turn out to be; `positive` are the symbols that never do."""
        return length == 0 if isinstance(length, int) else length not in self.positive

    def _ordered(self) -> "list[LayerView]":
        """The layers that the outputs need, each after those that it reads from (depth first, not recursive)."""
        network_inputs = {id(tensor) for tensor in self.inputs}
        ordered: list[LayerView] = []
        state: dict[int, str] = {}
        stack = [(self._producer_of(tensor, network_inputs), False) for tensor in reversed(self.outputs)]
        while stack:
            layer, finished = stack.pop()
            if layer is None:
                continue
            if finished:
                state[id(layer)] = "done"
                ordered.append(layer)
                continue
            if id(layer) in state:
                continue
            state[id(layer)] = "open"
            stack.append((layer, True))
            for tensor in reversed(layer.inputs):
                source = None if tensor is None else self._producer_of(tensor, network_inputs, layer)
                if source is None or state.get(id(source)) == "done":
                    continue
                if state.get(id(source)) == "open":
                    raise LoweringError(f"layers {layer.name!r} and {source.name!r} lie on a cycle")
                stack.append((source, False))
        return ordered

    def _producer_of(
        self, tensor: Any, network_inputs: set[int], reader: "LayerView | None" = None
    ) -> "LayerView | None":
        if id(tensor) in network_inputs:
            return None
        layer = self._producer.get(id(tensor))
        if layer is None:
            who = "an output of the network" if reader is None else f"layer {reader.name!r}"
            raise LoweringError(f"tensor {tensor.name!r}, read by {who}, belongs to no layer of this network")
        return layer


class LayerView:
    """One layer: its kind by TensorRT's name, its tensors, and its attributes through `api`."""

    def __init__(self, layer: Any, trt: Any) -> None:
        # Not `layer.type`: an IActivationLayer hides the layer's type behind the activation's.
        self.kind: str = trt.ILayer.type.__get__(layer).name
        self.api = _as_own_class(layer, self.kind, trt)
        self.name: str = layer.name
        self.inputs = [layer.get_input(index) for index in range(layer.num_inputs)]
        self.outputs = [layer.get_output(index) for index in range(layer.num_outputs)]

    def __repr__(self) -> str:
        return f"layer {self.name!r} ({self.kind})"


def _as_own_class(layer: Any, kind: str, trt: Any) -> Any:
    """The layer as an object of its own class, which shows its attributes, where the module has that class."""
    name = _CLASS_NAME.get(kind) or "I" + "".join(word.capitalize() for word in kind.split("_")) + "Layer"
    own_class = getattr(trt, name, None)
    if own_class is not None and not isinstance(layer, own_class):
        layer.__class__ = own_class
    return layer


def _strongly_typed(network: Any, trt: Any) -> bool:
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return flag is not None and bool(network.get_flag(flag))
