"""The table: layer kind -> the function that says what it means."""

from __future__ import annotations

from collections.abc import Callable

from trtllm_ext.oracle import (
    collectives,
    creating,
    einsum,
    moving,
    pointwise,
    products,
    quantizing,
    reducing,
    resize,
    sampling,
    scaling,
    selection,
    spatial,
)
from trtllm_ext.oracle.call import Call
from trtllm_ext.oracle.values import Array

# The value of the output, or one for each output.
KINDS: dict[str, Callable[[Call], Array | tuple[Array, ...]]] = {
    "ACTIVATION": pointwise.activation,
    "ASSERTION": einsum.assertion,
    "CAST": pointwise.unchanged,
    "CONCATENATION": moving.concatenation,
    "CONSTANT": creating.constant,
    "CONVOLUTION": spatial.convolution,
    "CUMULATIVE": selection.cumulative,
    "DECONVOLUTION": spatial.deconvolution,
    "DEQUANTIZE": quantizing.dequantize,
    "DIST_COLLECTIVE": collectives.dist_collective,
    "EINSUM": einsum.einsum,
    "ELEMENTWISE": pointwise.elementwise,
    "FILL": creating.fill,
    "GATHER": sampling.gather,
    "IDENTITY": pointwise.unchanged,
    "MATRIX_MULTIPLY": products.matrix_multiply,
    "NON_ZERO": selection.non_zero,
    "NORMALIZATION": reducing.normalization,
    "ONE_HOT": selection.one_hot,
    "PADDING": spatial.padding,
    "PARAMETRIC_RELU": scaling.parametric_relu,
    "POOLING": spatial.pooling,
    "QUANTIZE": quantizing.quantize,
    "REDUCE": reducing.reduce,
    "RESIZE": resize.resize,
    "REVERSE_SEQUENCE": selection.reverse_sequence,
    "SCALE": scaling.scale,
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

# Kinds at the edges of loops and conditionals: `control` runs what lies between them.
CONTROL_KINDS = frozenset(
    {
        "CONDITION",
        "CONDITIONAL_INPUT",
        "CONDITIONAL_OUTPUT",
        "ITERATOR",
        "LOOP_OUTPUT",
        "RECURRENCE",
        "TRIP_LIMIT",
    }
)
