"""Layers without data inputs: constant and fill."""

from __future__ import annotations

import numpy as np

from trtllm_ext.oracle.call import Call, ints
from trtllm_ext.oracle.values import Array, held_as, member_name, widened
from trtllm_ext.oracle.weights import stored_values


def constant(call: Call) -> Array:
    """The layer's weights in its shape."""
    layer = call.attributes("IConstantLayer")
    shape = ints(layer.shape)
    values = stored_values(layer.weights, call.known_weights())
    if values.size != int(np.prod(shape, dtype=np.int64)):
        call.refuse(f"{values.size} weights do not fill the shape {shape}")
    return widened(values.reshape(shape))


def fill(call: Call) -> Array:
    """LINSPACE: alpha + sum over dimensions of beta[d] * index[d], in exact integers or float64.

    Dimensions, alpha and beta come from inputs 0 to 2 where set, and from the attributes otherwise; a static beta
    counts along the one dimension of a vector.
    """
    layer = call.attributes("IFillLayer")
    operation = member_name(layer.operation)
    if operation != "LINSPACE":
        call.refuse(f"{operation} draws random numbers, which no reference can repeat")
    dims, start, steps = call.optional(0), call.optional(1), call.optional(2)
    shape = ints(layer.shape) if dims is None else tuple(int(length) for length in dims)
    if any(length < 0 for length in shape):
        call.refuse(f"dimensions {shape} must not be negative")
    held = held_as(call.output_type)
    alpha = np.asarray(layer.alpha if start is None else start).reshape(-1)
    beta = np.asarray(layer.beta if steps is None else steps).reshape(-1)
    if alpha.size != 1 or (beta.size != len(shape)):
        call.refuse(
            f"an output of rank {len(shape)} needs one start and {len(shape)} steps, not {alpha.size} and {beta.size}"
        )
    result = np.full(shape, alpha.astype(held)[0], held)
    for axis, step in enumerate(beta.astype(held)):
        along = [1] * len(shape)
        along[axis] = shape[axis]
        result = result + (np.arange(shape[axis], dtype=held) * step).reshape(along)
    return result
