"""The table: layer kind -> the function that says what it means."""

from __future__ import annotations

from collections.abc import Callable

from trtllm_ext.oracle import creating, moving, pointwise, products, reducing, sampling
from trtllm_ext.oracle.call import Call
from trtllm_ext.oracle.values import Array

# The value of the output, or one for each output.
KINDS: dict[str, Callable[[Call], Array | tuple[Array, ...]]] = {
    "ACTIVATION": pointwise.activation,
    "CAST": pointwise.unchanged,
    "CONCATENATION": moving.concatenation,
    "CONSTANT": creating.constant,
    "ELEMENTWISE": pointwise.elementwise,
    "FILL": creating.fill,
    "GATHER": sampling.gather,
    "IDENTITY": pointwise.unchanged,
    "MATRIX_MULTIPLY": products.matrix_multiply,
    "NORMALIZATION": reducing.normalization,
    "REDUCE": reducing.reduce,
    "SELECT": pointwise.select,
    "SHAPE": moving.shape,
    "SHUFFLE": moving.shuffle,
    "SLICE": sampling.slice,
    "SOFTMAX": reducing.softmax,
    "UNARY": pointwise.unary,
}
