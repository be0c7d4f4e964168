"""An `INetworkDefinition` seen through TensorRT's public API: layers in execution order, who reads which tensor."""

from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from typing import Any

from trtllm_ext.lowering.errors import LoweringError
from trtllm_ext.lowering.layer_view import EXPANSION, PLUGINS, LayerView
from trtllm_ext.lowering.ordering import in_order
from trtllm_ext.lowering.regions import all_inside, with_regions
from trtllm_ext.lowering.steps import Expansion, Source
from trtllm_ext.lowering.values import Element, Symbol


class NetworkView:
    """Layers and tensors of one network; holds them so that object identity stays meaningful.

    network, trt: the `INetworkDefinition` and the module that it belongs to. also: tensors to have as outputs too.
    expansions, weights: as `lower()` has them.
    """

    def __init__(
        self,
        network: Any,
        trt: Any,
        also: Sequence[Any] = (),
        expansions: Mapping[str, Expansion] | None = None,
        weights: Mapping[str, Any] | None = None,
    ) -> None:
        self.trt = trt
        self.expansions = expansions or {}
        self.weights = weights or {}
        self.inputs = [network.get_input(index) for index in range(network.num_inputs)]
        self.outputs = [*(network.get_output(index) for index in range(network.num_outputs)), *also]
        self.strongly_typed = _strongly_typed(network, trt)
        self.output_ids = {id(tensor) for tensor in self.outputs}
        # Where they are others than the tensors': by id, the name and whether it is kept for that tensor.
        self.given_names: dict[int, tuple[str, bool]] = {}
        # Kept with their tensors, needed or not: the identity of an object is that of nothing else while it lives.
        self._seen = [LayerView(network.get_layer(index), trt) for index in range(network.num_layers)]
        for view in self._seen:
            if view.kind in PLUGINS and view.name in self.expansions:
                view.kind = EXPANSION
        layers = with_regions(self._seen, self.outputs)
        self._producer = {id(tensor): layer for layer in layers for tensor in layer.outputs}
        self._inside = {id(tensor): layer for layer in layers for tensor in layer.inner_tensors}
        self.layers = self._ordered()
        self.positive: set[Symbol] = set()
        # Weights that stay exchangeable in the engine.
        self.refittable: Set[Source] = frozenset()
        # Whether a product may take up the bias behind it.
        self.fuses_bias = True
        # Whether a product must be of ONNX's own operators.
        self.standard = False
        # By the id of a tensor that a dequantize layer makes.
        self.dequantized: dict[int, Any] = {}
        self.readers: dict[int, int] = defaultdict(int)
        for layer in all_inside(self.layers):
            self._producer.update((id(tensor), layer) for tensor in layer.outputs)
            for tensor in layer.inputs:
                self.readers[id(tensor)] += 1

    def read_once(self, tensor: Any) -> bool:
        """Whether one layer input is all that sees `tensor`."""
        return self.readers[id(tensor)] == 1 and id(tensor) not in self.output_ids

    def name_of(self, tensor: Any) -> tuple[str, bool]:
        """What the value of a tensor is to be called, and whether that is kept for it, as for an output's."""
        return self.given_names.get(id(tensor), (tensor.name, id(tensor) in self.output_ids))

    def producer(self, tensor: Any) -> LayerView | None:
        """The layer that makes `tensor`; None for an input of the network."""
        return self._producer.get(id(tensor))

    def may_be_zero(self, length: Element) -> bool:
        """Whether a length is 0, or may turn out to be; `positive` are the symbols that never do."""
        return length == 0 if isinstance(length, int) else length not in self.positive

    def _ordered(self) -> list[LayerView]:
        """The layers that the outputs need, each after those that it reads from."""
        network_inputs = {id(tensor) for tensor in self.inputs}
        return in_order(
            self.outputs, lambda tensor, reader: self._producer_of(tensor, network_inputs, reader)
        )

    def _producer_of(
        self, tensor: Any, network_inputs: set[int], reader: LayerView | None = None
    ) -> LayerView | None:
        if id(tensor) in network_inputs:
            return None
        layer = self._producer.get(id(tensor))
        if layer is None:
            who = "an output of the network" if reader is None else f"layer {reader.name!r}"
            within = self._inside.get(id(tensor))
            if within is not None:
                raise LoweringError(
                    f"tensor {tensor.name!r}, read by {who}, is computed inside {within.name!r}; it must leave that "
                    f"by {within.way_out}"
                )
            raise LoweringError(f"tensor {tensor.name!r}, read by {who}, belongs to no layer of this network")
        return layer


def _strongly_typed(network: Any, trt: Any) -> bool:
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    # From TensorRT 11 on there is no other mode, and layers have no precision to set.
    return not hasattr(trt.ILayer, "precision_is_set") or (flag is not None and bool(network.get_flag(flag)))
