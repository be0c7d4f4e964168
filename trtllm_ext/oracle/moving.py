"""Layers that move data and compute nothing: concatenation, shape, shuffle."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from trtllm_ext.oracle.call import Call, ints_if_set
from trtllm_ext.oracle.values import Array, held_as


def concatenation(call: Call) -> Array:
    """The inputs one after the other along `axis`; all other lengths match."""
    parts = call.present()
    call.same_kind(*parts)
    axis = int(call.attributes("IConcatenationLayer").axis)
    try:
        return np.concatenate(parts, axis=axis)
    except ValueError:
        call.refuse(f"inputs of shapes {[p.shape for p in parts]} do not concatenate along axis {axis}")


def shape(call: Call) -> Array:
    """The dimensions of the input: int64, in TensorRT 8 and 9 int32."""
    return np.array(call.input(0).shape, held_as(call.output_type))


def shuffle(call: Call) -> Array:
    """Transpose, then reshape, then transpose again; each of the three optional."""
    layer = call.attributes("IShuffleLayer")
    x = _transposed(call, call.input(0), layer.first_transpose)
    wanted = _reshape_dimensions(call, layer)
    if wanted is not None:
        x = np.reshape(x, resolved_shape(call, wanted, x.shape, zero_copies=bool(layer.zero_is_placeholder)))
    return _transposed(call, x, layer.second_transpose)


def _reshape_dimensions(call: Call, layer: Any) -> tuple[int, ...] | None:
    """From input 1 where set, else from the attribute; None if neither says anything."""
    dynamic = call.optional(1)
    if dynamic is not None:
        return tuple(int(length) for length in dynamic)
    wanted = ints_if_set(layer.reshape_dims)
    # No reshape dimensions may read as none at all, and so does a reshape to a scalar: the output's rank tells.
    return wanted if wanted or call.output_rank == 0 else None


def _transposed(call: Call, x: Array, permutation: Any) -> Array:
    """Only the first entries of a Permutation count, as many as there are dimensions."""
    order = tuple(int(permutation[axis]) for axis in range(x.ndim))
    if sorted(order) != list(range(x.ndim)):
        call.refuse(f"{order} does not permute the {x.ndim} dimensions of its input")
    return np.transpose(x, order)


def resolved_shape(
    call: Call, wanted: tuple[int, ...], given: tuple[int, ...], *, zero_copies: bool
) -> tuple[int, ...]:
    """Reshape dimensions with 0 (copy, when it is a placeholder) and one -1 (what is left over) worked out."""
    if any(length < -1 for length in wanted) or wanted.count(-1) > 1:
        call.refuse(f"reshape dimensions {wanted} may have one -1 and no other negative length")
    resolved = list(wanted)
    if zero_copies:
        for axis, length in enumerate(wanted):
            if length == 0:
                if axis >= len(given):
                    call.refuse(
                        f"the 0 at dimension {axis} of {wanted} copies nothing: the input has shape {given}"
                    )
                resolved[axis] = given[axis]
    volume = math.prod(given)
    others = math.prod(length for length in resolved if length != -1)
    if -1 in resolved:
        if others == 0:
            call.refuse(f"the -1 in {wanted} is indeterminate, because another dimension is empty")
        resolved[resolved.index(-1)] = volume // others
    if math.prod(resolved) != volume:
        call.refuse(f"a tensor of shape {given} does not reshape to {tuple(resolved)}")
    return tuple(resolved)
