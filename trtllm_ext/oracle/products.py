"""Matrix products."""

from __future__ import annotations

import numpy as np

from trtllm_ext.oracle.call import Call
from trtllm_ext.oracle.values import Array, is_floating, member_name


def matrix_multiply(call: Call) -> Array:
    """The inner product of collections of matrices or vectors.

    VECTOR makes the first operand row vectors [..., 1, K] and the second column vectors [..., K, 1]; the dimension
    of length one does not appear in the output. All other leading dimensions broadcast where they are one.
    """
    layer = call.attributes("IMatrixMultiplyLayer")
    operations = (member_name(layer.op0), member_name(layer.op1))
    a = _operand(call, 0, operations[0])
    b = _operand(call, 1, operations[1])
    if not (is_floating(a) and is_floating(b)):
        call.refuse(f"operands must be floating, not {a.dtype} and {b.dtype}")
    if a.ndim != b.ndim:
        call.refuse(f"operands {a.shape} and {b.shape} must have the same number of leading dimensions")
    try:
        product = np.matmul(a, b)
    except ValueError:
        call.refuse(f"operands {a.shape} and {b.shape} (after {operations}) do not multiply")
    dropped = tuple(axis for axis, op in zip((-2, -1), operations, strict=True) if op == "VECTOR")
    return np.squeeze(product, axis=dropped) if dropped else product


def _operand(call: Call, index: int, operation: str) -> Array:
    value = call.input(index)
    if operation == "VECTOR":
        if value.ndim < 1:
            call.refuse(f"operand {index} is a scalar; VECTOR needs at least one dimension")
        return np.expand_dims(value, -2 if index == 0 else -1)
    if value.ndim < 2:
        call.refuse(f"operand {index} has shape {value.shape}; {operation} needs at least two dimensions")
    return np.swapaxes(value, -1, -2) if operation == "TRANSPOSE" else value
