"""Products of dequantized INT8 tensors: the exact product of the integers, scaled once.

MatMulInteger takes them as unsigned numbers around 128. Signed ones it multiplies, on processors without VNNI, in 16
bits that saturate, and with 1.31 it took nine times as long (32 x 768 x 3072, two cores with VNNI).
"""

import numpy as np

from trtllm_ext.lowering.batches import cut_like, may_broadcast_to_none, one_longer
from trtllm_ext.lowering.dequantized import Dequantized, dequantized_input
from trtllm_ext.lowering.element_types import DOUBLE, FLOAT, INT32, UINT8
from trtllm_ext.lowering.emitter import Emitter
from trtllm_ext.lowering.layer import Layer
from trtllm_ext.lowering.movement import squeeze, transpose, unsqueeze
from trtllm_ext.lowering.values import Value, broadcast_shape

# So many products of two INT8 numbers, each of at most 2**14, fit into 32 bits.
_MAX_SUMMED = 2**31 // 2**14 - 1
_SIGN_BIT = 128


def integer_product(layer: Layer) -> Value | None:
    """A product as integers; None unless both operands are dequantized with scales that are constant along the sum."""
    a, b = dequantized_input(layer, 0), dequantized_input(layer, 1)
    if a is None or b is None:
        return None
    op0, op1 = layer.api.op0.name, layer.api.op1.name
    last_a, last_b = a.integers.ndim - 1, b.integers.ndim - 1
    summed = (last_a - 1 if op0 == "TRANSPOSE" else last_a, last_b - 1 if op1 == "NONE" else last_b)
    if a.axis == summed[0] or b.axis == summed[1]:
        return None
    emitter = layer.emitter
    left, right = a.integers, b.integers
    left = unsqueeze(emitter, left, left.ndim - 1) if op0 == "VECTOR" else _turned(emitter, left, op0)
    right = unsqueeze(emitter, right, right.ndim) if op1 == "VECTOR" else _turned(emitter, right, op1)
    rank = left.ndim
    product = _product(layer, left, right)
    scale = _product_of_scales(emitter, _row_scale(emitter, a, rank), _column_scale(emitter, b, rank))
    result = emitter.node("Mul", [product, scale], FLOAT, product.shape)
    if op1 == "VECTOR":
        result = squeeze(emitter, result, rank - 1)
    if op0 == "VECTOR":
        result = squeeze(emitter, result, rank - 2)
    return result


def _turned(emitter: Emitter, value: Value, operation: str) -> Value:
    if operation != "TRANSPOSE":
        return value
    axes = tuple(range(value.ndim))
    return transpose(emitter, value, (*axes[:-2], axes[-1], axes[-2]))


def _product(layer: Layer, a: Value, b: Value) -> Value:
    """The sums of products, in float32; each is the exact integer rounded once."""
    emitter = layer.emitter
    shape = (*broadcast_shape(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])
    if all(length == 1 for length in b.shape[:-2]):
        for _ in b.shape[:-2]:
            b = squeeze(emitter, b, 0)
    elif may_broadcast_to_none(layer, a, b):
        a, b = cut_like(layer, a, b), cut_like(layer, b, a)
    summed = max(a.shape[-1], b.shape[-2])
    if not 0 < summed <= _MAX_SUMMED:
        # Integers of 53 bits are exact here.
        return emitter.cast(emitter.node("MatMul", _wide(emitter, a, b, summed), DOUBLE, shape), FLOAT)
    zero_point = emitter.scalar(_SIGN_BIT, UINT8)
    inputs = [_unsigned(emitter, a), _unsigned(emitter, b), zero_point, zero_point]
    return emitter.cast(emitter.node("MatMulInteger", inputs, INT32, shape), FLOAT)


def _wide(emitter: Emitter, a: Value, b: Value, summed: int) -> list[Value]:
    """The operands in float64, for a sum that is too long for 32 bits, none, or of a length not known (-1)."""
    if summed <= 0:
        # Where nothing is summed MatMulInteger writes nothing, and MatMul forgets batches of its right operand (seen
        # with 1.31). One more zero is summed for that.
        a, b = one_longer(emitter, a, a.ndim - 1), one_longer(emitter, b, b.ndim - 2)
    # Reshapes to what they are keep transposes from being folded into the product, which errs on empty matrices then.
    return [
        emitter.node(
            "Reshape", [emitter.cast(value, DOUBLE), emitter.ints([0] * value.ndim)], DOUBLE, value.shape
        )
        for value in (a, b)
    ]


def _unsigned(emitter: Emitter, value: Value) -> Value:
    """INT8 plus 128."""
    bits = emitter.cast(value, UINT8)
    return emitter.node("BitwiseXor", [bits, emitter.scalar(_SIGN_BIT, UINT8)], UINT8, value.shape)


def _row_scale(emitter: Emitter, a: Dequantized, rank: int) -> Value:
    """The scale of the left operand as it broadcasts over a product of rank `rank`."""
    if a.axis is None:
        return _one_number(emitter, a.scale)
    batch = a.integers.ndim - (1 if a.integers.ndim < rank else 2)
    return _along(emitter, a.scale, a.axis if a.axis < batch else rank - 2, rank)


def _column_scale(emitter: Emitter, b: Dequantized, rank: int) -> Value:
    if b.axis is None:
        return _one_number(emitter, b.scale)
    batch = b.integers.ndim - (1 if b.integers.ndim < rank else 2)
    return _along(emitter, b.scale, b.axis if b.axis < batch else rank - 1, rank)


def _one_number(emitter: Emitter, scale: Value) -> Value:
    for _ in range(scale.ndim):
        scale = squeeze(emitter, scale, 0)
    return scale


def _along(emitter: Emitter, scale: Value, axis: int, rank: int) -> Value:
    """A 1-D scale with lengths of 1 behind it, so that it goes along `axis` of a tensor of this rank."""
    for _ in range(rank - 1 - axis):
        scale = unsqueeze(emitter, scale, scale.ndim)
    return scale


def _product_of_scales(emitter: Emitter, a: Value, b: Value) -> Value:
    """The two scales multiplied in float32."""
    if a.data is not None and b.data is not None and 1 in (a.data.size, b.data.size):
        with np.errstate(over="ignore", under="ignore"):
            return emitter.keep(np.asarray(a.array() * b.array(), np.float32))
    # By way of float64, where it is exact: the product of an integer product and of a product of scales is what ONNX
    # Runtime fuses, to a kernel that rounds otherwise.
    wide = [emitter.cast(scale, DOUBLE) for scale in (a, b)]
    return emitter.cast(emitter.map("Mul", *wide), FLOAT)
