"""Matrix products.

A weight stays as it is stored, (out_features, in_features): ONNX Runtime multiplies by its transpose as fast as by a
transposed copy. A 2-D product with a constant bias becomes one Gemm, which takes the bias into the product and, with
a ReLU after it, the ReLU too; products of higher rank stay apart from their bias, which the runtime fuses with the
GELU or the normalization behind it.
"""

from typing import Any

from trtllm_ext.lowering.batches import cut_like, may_broadcast_to_none, may_sum_nothing, one_longer
from trtllm_ext.lowering.element_types import FLOAT
from trtllm_ext.lowering.emitter import CONTRIB
from trtllm_ext.lowering.integer_product import integer_product
from trtllm_ext.lowering.layer import Layer
from trtllm_ext.lowering.movement import squeeze, unsqueeze
from trtllm_ext.lowering.registry import lowers
from trtllm_ext.lowering.values import Value, broadcast_shape


@lowers("MATRIX_MULTIPLY")
def matrix_multiply(layer: Layer) -> Value:
    """The product of two collections of matrices or vectors, accumulated in float32, or exact of dequantized INT8."""
    exact = integer_product(layer)
    if exact is not None:
        return exact
    emitter = layer.emitter
    op0, op1 = layer.api.op0.name, layer.api.op1.name
    a, b = layer.raw(0), layer.raw(1)
    if b.data is not None and op1 != "VECTOR" and op0 != "VECTOR":
        b = _matrix_alone(b, a.ndim)
    a, b = layer.as_operand(a), layer.as_operand(b)
    if a.onnx_type != FLOAT or b.onnx_type != FLOAT:
        raise layer.refusal("a matrix product takes floats")
    if op0 == "VECTOR":
        a = unsqueeze(emitter, a, a.ndim - 1)
    if op1 == "VECTOR":
        b = unsqueeze(emitter, b, b.ndim)
    product = _product(layer, a, b, op0 == "TRANSPOSE", op1 == "TRANSPOSE")
    if op1 == "VECTOR":
        product = squeeze(emitter, product, product.ndim - 1)
    if op0 == "VECTOR":
        product = squeeze(emitter, product, product.ndim - (1 if op1 == "VECTOR" else 2))
    return product


def with_bias(layer: Layer, a: Value, b: Value) -> Value | None:
    """`a + b` as one Gemm, if one is a 2-D product that nothing else reads and the other a constant row."""
    if not layer.network.fuses_bias:
        return None
    for index, (product, bias) in enumerate(((a, b), (b, a))):
        node = layer.emitter.producer(product)
        if (
            node is not None
            and node.op_type in ("MatMul", "FusedMatMul", "Gemm")
            and len(node.input) == 2
            and product.ndim == 2
            and product.shape[1] >= 0
            and bias.data is not None
            and bias.shape in ((product.shape[1],), (1, product.shape[1]))
            and layer.network.read_once(layer.view.inputs[index])
        ):
            return layer.emitter.extend(product, "Gemm", bias.reshaped((product.shape[1],)))
    return None


def _matrix_alone(weight: Value, rank: int) -> Value:
    """A constant without leading lengths of 1, where the other operand has them anyway."""
    shape = weight.shape
    if len(shape) <= rank and all(length == 1 for length in shape[:-2]):
        return weight.reshaped(shape[-2:])
    return weight


def _product(layer: Layer, a: Value, b: Value, transpose_a: bool, transpose_b: bool) -> Value:
    if may_broadcast_to_none(layer, a, b):
        if b.ndim > 2:
            a, b = cut_like(layer, a, b), cut_like(layer, b, a)
        else:
            a, transpose_a = _turned_in_memory(layer, a, transpose_a), False
    summed = a.ndim - (2 if transpose_a else 1), b.ndim - (1 if transpose_b else 2)
    if may_sum_nothing(layer, a, b, summed):
        a, b = one_longer(layer.emitter, a, summed[0]), one_longer(layer.emitter, b, summed[1])
    rows = a.shape[-1 if transpose_a else -2]
    columns = b.shape[-2 if transpose_b else -1]
    shape = (*broadcast_shape(a.shape[:-2], b.shape[:-2]), rows, columns)
    if not transpose_a and not transpose_b:
        return layer.emitter.node("MatMul", [a, b], FLOAT, shape)
    attributes: dict[str, Any] = {"transA": int(transpose_a), "transB": int(transpose_b)}
    if layer.network.standard and a.ndim == b.ndim == 2:
        return layer.emitter.node("Gemm", [a, b], FLOAT, shape, **attributes)
    if layer.network.standard:
        turned = [
            _last_two_turned(layer, value) if turn else value
            for value, turn in ((a, transpose_a), (b, transpose_b))
        ]
        return layer.emitter.node("MatMul", turned, FLOAT, shape)
    return layer.emitter.node("FusedMatMul", [a, b], FLOAT, shape, domain=CONTRIB, **attributes)


def _last_two_turned(layer: Layer, value: Value) -> Value:
    axes = tuple(range(value.ndim))
    return layer.emitter.transpose(value, (*axes[:-2], axes[-1], axes[-2]))


def _turned_in_memory(layer: Layer, value: Value, transpose: bool) -> Value:
    """`value`, transposed if asked for, such that no transpose of it is folded into the product."""
    emitter = layer.emitter
    if transpose:
        value = _last_two_turned(layer, value)
    if not emitter.is_transposed(value):
        return value
    return emitter.node("Reshape", [value, emitter.ints([0] * value.ndim)], FLOAT, value.shape)
