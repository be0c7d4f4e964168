"""Layers one after another: each lowered, and its results made what the network says they are."""

from collections.abc import Iterable
from dataclasses import replace

from trtllm_ext.lowering.element_types import FLOAT
from trtllm_ext.lowering.emitter import Emitter
from trtllm_ext.lowering.layer import Layer
from trtllm_ext.lowering.layer_view import LayerView
from trtllm_ext.lowering.network_view import NetworkView
from trtllm_ext.lowering.registry import lowering_of
from trtllm_ext.lowering.shape_values import elements_of
from trtllm_ext.lowering.symbols import symbols_of
from trtllm_ext.lowering.values import Value

# Layers whose shape may depend on the values of a shape tensor, which ONNX Runtime does not always follow.
_NOT_INFERRED = frozenset({"SHUFFLE", "SLICE", "FILL", "TOPK", "RESIZE", "LOOP", "IF"})


def lower_layers(
    emitter: Emitter, network: NetworkView, layers: Iterable[LayerView], values: dict[int, Value]
) -> None:
    """Emit layers that are in an order of execution.

    values: by the id of a tensor of the network, what stands for it; must have all that the layers read from outside,
    and is given what they make.
    """
    for layer in layers:
        emitter.scope = layer.name
        given = tuple(None if tensor is None else values[id(tensor)] for tensor in layer.inputs)
        results = _lowered(Layer(emitter, network, layer, given))
        values.update(zip(map(id, layer.outputs), results, strict=True))
        _pin(emitter, network, layer, values)


def _pin(emitter: Emitter, network: NetworkView, layer: LayerView, values: dict[int, Value]) -> None:
    """Keep as they are the values that more is to see than the next layer: outputs, and inputs handed through."""
    seen = {
        values[id(tensor)].name
        for tensor in layer.inputs
        if tensor is not None and not network.read_once(tensor)
    }
    for tensor in layer.outputs:
        value = values[id(tensor)]
        if value.data is None and (id(tensor) in network.output_ids or value.name in seen):
            emitter.pin(value)


def _lowered(layer: Layer) -> tuple[Value, ...]:
    lowered = lowering_of(layer.view.kind, layer.view.name)(layer)
    values = (lowered,) if isinstance(lowered, Value) else lowered
    if len(layer.view.outputs) != len(values):
        raise layer.refusal(f"it has {len(layer.view.outputs)} outputs; lowered it has {len(values)}")
    return tuple(_finished(layer, index, value) for index, value in enumerate(values))


def _finished(layer: Layer, index: int, value: Value) -> Value:
    """A result in the type, and under the name, that the network has for it, with all that is known of it."""
    wanted = layer.stored_type_of_output(index)
    if value.onnx_type == FLOAT and wanted == FLOAT and layer.precision is not None:
        value = layer.emitter.cast(value, layer.precision)
    value = layer.emitter.cast(value, wanted)
    value = _named(layer, index, value)
    if value.data is not None:
        return value
    value = replace(value, shape=_refined(value.shape, layer.shape_of_output(index)))
    elements, symbols = elements_of(layer, value), symbols_of(layer, value)
    if (elements, symbols) != (value.elements, value.symbols):
        value = replace(value, elements=elements, symbols=symbols)
    if layer.view.kind in _NOT_INFERRED:
        layer.emitter.describe(value)
    return value


def _named(layer: Layer, index: int, value: Value) -> Value:
    name, is_kept = layer.network.name_of(layer.view.outputs[index])
    return layer.emitter.rename(value, name, reserved=is_kept)


def _refined(shape: tuple[int, ...], network_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The network's own shape inference, with lengths that only the lowering knows."""
    if len(shape) != len(network_shape):
        return network_shape
    return tuple(ours if theirs < 0 else theirs for ours, theirs in zip(shape, network_shape, strict=True))
