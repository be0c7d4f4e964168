"""The table: layer kind -> the function that says what it means."""

from __future__ import annotations

from collections.abc import Callable

from trtllm_ext.oracle import (
    creating,
    moving,
    pointwise,
    products,
    quantizing,
    reducing,
    sampling,
    selection,
)
from trtllm_ext.oracle.call import Call
from trtllm_ext.oracle.values import Array

# The value of the output, or one for each output.
KINDS: dict[str, Callable[[Call], Array | tuple[Array, ...]]] = {
    "ACTIVATION": pointwise.activation,
    "CAST": pointwise.unchanged,
    "CONCATENATION": moving.concatenation,
    "CONSTANT": creating.constant,
    "CUMULATIVE": selection.cumulative,
    "DEQUANTIZE": quantizing.dequantize,
    "ELEMENTWISE": pointwise.elementwise,
    "FILL": creating.fill,
    "GATHER": sampling.gather,
    "IDENTITY": pointwise.unchanged,
    "MATRIX_MULTIPLY": products.matrix_multiply,
    "NON_ZERO": selection.non_zero,
    "NORMALIZATION": reducing.normalization,
    "ONE_HOT": selection.one_hot,
    "QUANTIZE": quantizing.quantize,
    "REDUCE": reducing.reduce,
    "REVERSE_SEQUENCE": selection.reverse_sequence,
    "SCATTER": selection.scatter,
    "SELECT": pointwise.select,
    "SHAPE": moving.shape,
    "SHUFFLE": moving.shuffle,
    "SLICE": sampling.slice,
    "SOFTMAX": reducing.softmax,
    "SQUEEZE": selection.squeeze,
    "TOPK": selection.topk,
    "UNARY": pointwise.unary,
    "UNSQUEEZE": selection.unsqueeze,
}
