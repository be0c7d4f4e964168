"""Cumulative and reverse sequence layers, which go along one dimension in order."""

from trtllm_ext.lowering.element_types import INT64
from trtllm_ext.lowering.emitter import Emitter
from trtllm_ext.lowering.layer import Layer
from trtllm_ext.lowering.movement import CARRIER, transpose
from trtllm_ext.lowering.registry import lowers
from trtllm_ext.lowering.values import Value


@lowers("CUMULATIVE")
def cumulative(layer: Layer) -> Value:
    """Running sums, in float32 where the type is narrower and modulo 2 ** bits of integers."""
    if layer.api.op.name != "SUM":
        raise layer.refusal(f"the cumulative operation {layer.api.op.name} is not supported; SUM is")
    return layer.emitter.map(
        "CumSum",
        layer.operand(0),
        layer.raw(1),
        exclusive=int(layer.api.exclusive),
        reverse=int(layer.api.reverse),
    )


@lowers("REVERSE_SEQUENCE")
def reverse_sequence(layer: Layer) -> Value:
    """The first elements of each sequence in reverse."""
    emitter, value = layer.emitter, layer.raw(0)
    batch, sequence = int(layer.api.batch_axis), int(layer.api.sequence_axis)
    value = emitter.cast(value, CARRIER.get(value.onnx_type, value.onnx_type))
    lengths = emitter.cast(layer.raw(1), INT64)
    if {batch, sequence} == {0, 1}:
        return _reversed(emitter, value, lengths, batch, sequence)
    # ONNX has the two axes in front.
    order = [batch, sequence, *(axis for axis in range(value.ndim) if axis not in (batch, sequence))]
    result = _reversed(emitter, transpose(emitter, value, order), lengths, 0, 1)
    return transpose(emitter, result, [order.index(axis) for axis in range(value.ndim)])


def _reversed(emitter: Emitter, value: Value, lengths: Value, batch: int, sequence: int) -> Value:
    inputs = [value, lengths]
    return emitter.node(
        "ReverseSequence", inputs, value.onnx_type, value.shape, batch_axis=batch, time_axis=sequence
    )
