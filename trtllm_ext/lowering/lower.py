"""An `INetworkDefinition` becomes ONNX."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

# The families register their functions when they are imported.
from trtllm_ext.lowering import (  # noqa: F401
    activation,
    arithmetic,
    conversion,
    fill,
    matmul,
    movement,
    normalization,
    reduction,
    selection,
    sequences,
    slicing,
    unit_axes,
)
from trtllm_ext.lowering.element_types import FLOAT, onnx_type_of
from trtllm_ext.lowering.emitter import Emitter
from trtllm_ext.lowering.layer import Layer
from trtllm_ext.lowering.network_view import NetworkView
from trtllm_ext.lowering.registry import lowering_of
from trtllm_ext.lowering.shape_values import elements_of
from trtllm_ext.lowering.steps import Lowered
from trtllm_ext.lowering.symbols import symbols_of
from trtllm_ext.lowering.values import Symbol, Value

# Layers whose shape may depend on the values of a shape tensor, which ONNX Runtime does not always follow.
_NOT_INFERRED = frozenset({"SHUFFLE", "SLICE", "FILL", "TOPK"})


def lower(network: Any, trt: Any, min_shapes: Mapping[str, tuple[int, ...]] | None = None) -> Lowered:
    """Express a network as steps that ONNX Runtime can execute.

    network, trt: an `INetworkDefinition`, and the module it belongs to (TensorRT itself or a module of its API).
    min_shapes: by input, the least length that each dimension will have; 0 where nothing is said.
    Weights are borrowed from the network, not copied: use the result while they are alive.
    Raises LoweringError for layers, operations or types that the embedded engine lacks.
    """
    view = NetworkView(network, trt)
    emitter = Emitter()
    for tensor in view.outputs:
        emitter.reserve(tensor.name)
    values: dict[int, Value] = {id(tensor): _input(emitter, tensor) for tensor in view.inputs}
    for tensor in view.inputs:
        least = (min_shapes or {}).get(tensor.name, ())
        lengths = zip(values[id(tensor)].symbols, least, strict=False)
        view.positive.update(symbol for symbol, length in lengths if symbol is not None and length > 0)
    for layer in view.layers:
        emitter.scope = layer.name
        given = tuple(None if tensor is None else values[id(tensor)] for tensor in layer.inputs)
        results = _lower_layer(Layer(emitter, view, layer, given))
        values.update(zip(map(id, layer.outputs), results, strict=True))
    for tensor in view.outputs:
        emitter.output(tensor.name, values[id(tensor)])
    return Lowered((emitter.segment(network.name or "network"),))


def _input(emitter: Emitter, tensor: Any) -> Value:
    name: str = tensor.name
    shape = tuple(tensor.shape)
    get_name = getattr(tensor, "get_dimension_name", lambda axis: None)
    given = [get_name(axis) for axis in range(len(shape))]
    symbols = [
        Symbol(name, axis) if dim_name is None else Symbol(dim_name) for axis, dim_name in enumerate(given)
    ]
    return emitter.input(name, onnx_type_of(tensor.dtype, f"network input {name!r}"), shape, symbols)


def _lower_layer(layer: Layer) -> tuple[Value, ...]:
    lowered = lowering_of(layer.view.kind, layer.view.name)(layer)
    values = (lowered,) if isinstance(lowered, Value) else lowered
    if len(layer.view.outputs) != len(values):
        raise layer.refusal(f"it has {len(layer.view.outputs)} outputs; lowered it has {len(values)}")
    return tuple(_finished(layer, index, value) for index, value in enumerate(values))


def _finished(layer: Layer, index: int, value: Value) -> Value:
    """A result in the type, and under the name, that the network has for it, with all that is known of it."""
    wanted = layer.type_of_output(index)
    if value.onnx_type == FLOAT and wanted == FLOAT and layer.precision is not None:
        value = layer.emitter.cast(value, layer.precision)
    value = layer.emitter.cast(value, wanted)
    value = _named(layer, index, value)
    if value.data is not None:
        return value
    value = replace(value, shape=_refined(value.shape, tuple(layer.view.outputs[index].shape)))
    value = replace(value, elements=elements_of(layer, value), symbols=symbols_of(layer, value))
    if layer.view.kind in _NOT_INFERRED:
        layer.emitter.describe(value)
    return value


def _named(layer: Layer, index: int, value: Value) -> Value:
    tensor = layer.view.outputs[index]
    return layer.emitter.rename(value, tensor.name, reserved=id(tensor) in layer.network.output_ids)


def _refined(shape: tuple[int, ...], network_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The network's own shape inference, with lengths that only the lowering knows."""
    if len(shape) != len(network_shape):
        return network_shape
    return tuple(ours if theirs < 0 else theirs for ours, theirs in zip(shape, network_shape, strict=True))
