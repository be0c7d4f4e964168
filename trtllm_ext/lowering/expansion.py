"""Plugin layers written out as networks of plain layers."""

from trtllm_ext.lowering.layer import Layer
from trtllm_ext.lowering.layer_view import EXPANSION
from trtllm_ext.lowering.lower_layers import lower_layers
from trtllm_ext.lowering.network_view import NetworkView
from trtllm_ext.lowering.registry import lowers
from trtllm_ext.lowering.values import Value


@lowers(EXPANSION)
def expansion(layer: Layer) -> tuple[Value, ...]:
    """The layers of the expansion, in place of the plugin."""
    outer, told = layer.network, layer.network.expansions[layer.view.name]
    inner = NetworkView(told.network, outer.trt, (), told.expansions, told.weights)
    inner.positive, inner.fuses_bias, inner.standard = outer.positive, outer.fuses_bias, outer.standard
    for tensor, known in zip(inner.outputs, layer.view.outputs, strict=False):
        inner.given_names[id(tensor)] = outer.name_of(known)
    if len(inner.inputs) != len(layer.values):
        raise layer.refusal(f"it has {len(layer.values)} inputs, its expansion {len(inner.inputs)}")
    values: dict[int, Value] = {}
    for index, tensor in enumerate(inner.inputs):
        values[id(tensor)] = layer.raw(index)
    lower_layers(layer.emitter, inner, inner.layers, values)
    layer.emitter.scope = layer.view.name
    return tuple(values[id(tensor)] for tensor in inner.outputs)
