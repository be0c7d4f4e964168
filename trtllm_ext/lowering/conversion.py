"""Constant, cast, identity and shape layers."""

from dataclasses import replace
from typing import Any

from trtllm_ext.lowering.element_types import (
    BF16,
    FLOAT,
    FLOATS,
    HALF,
    INT8,
    INT64,
    numpy_type_of,
    onnx_type_of,
    unpacked,
)
from trtllm_ext.lowering.layer import Layer
from trtllm_ext.lowering.registry import lowers
from trtllm_ext.lowering.values import Value, constant
from trtllm_ext.lowering.weights import array_of, packed_bytes


@lowers("CONSTANT")
def constant_layer(layer: Layer) -> Value:
    """The weights, borrowed."""
    weights, shape = layer.api.weights, tuple(layer.api.shape)
    packed = packed_bytes(layer, weights)
    if packed is not None:
        return _four_bits(layer, weights, packed, shape)
    array = array_of(layer, weights, shape, "its weights")
    wanted = numpy_type_of(onnx_type_of(layer.view.outputs[0].dtype, f"the output of {layer.view}"))
    if array.dtype != wanted and array.dtype.itemsize == wanted.itemsize and array.dtype.kind == "V":
        array = array.view(wanted)
    return layer.weights("CONSTANT", array, layer.view.outputs[0].name)


def _four_bits(layer: Layer, weights: Any, packed: Any, shape: tuple[int, ...]) -> Value:
    """Weights of INT4, one to a byte; other 4-bit types are refused."""
    if weights.dtype.name != "INT4":
        raise layer.refusal(f"weights of type {weights.dtype} are not supported; of 4-bit types INT4 is")
    return constant(unpacked(packed, weights.size).reshape(shape), layer.view.outputs[0].name)


@lowers("CAST")
def cast(layer: Layer) -> Value:
    """The input in another type; floats become integers toward zero, and true where they are not zero."""
    return _convert(layer, layer.raw(0))


@lowers("IDENTITY")
def identity(layer: Layer) -> Value:
    """The input, converted if the output's type says so."""
    return _convert(layer, layer.raw(0))


def _convert(layer: Layer, value: Value) -> Value:
    if {value.onnx_type, layer.output_type} == {HALF, BF16}:
        # Exact in float32, so that the value is rounded once and not by a conversion of the runtime's choice.
        value = layer.emitter.cast(value, FLOAT)
    if layer.output_type == INT8 and value.onnx_type in FLOATS:
        # Out of range the runtime's conversion has no defined result.
        wide = layer.emitter.cast(value, FLOAT)
        bounds = [layer.emitter.scalar(-128), layer.emitter.scalar(127)]
        value = layer.emitter.node("Clip", [wide, *bounds], FLOAT, wide.shape)
    return layer.emitter.cast(value, layer.output_type)


@lowers("SHAPE")
def shape(layer: Layer) -> Value:
    """The lengths of the input's dimensions, int64."""
    value = layer.raw(0)
    result = layer.emitter.shape_of(value)
    return replace(result, onnx_type=INT64)
