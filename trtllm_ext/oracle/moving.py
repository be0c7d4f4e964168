"""Layers that move data and compute nothing: concatenation, shape, shuffle."""

from __future__ import annotations

import math

import numpy as np

from trtllm_ext.oracle.call import Call, ints
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
    x = np.transpose(call.input(0), ints_of_permutation(layer.first_transpose, call.input(0).ndim))
    dynamic = call.optional(1)
    if dynamic is not None:
        wanted: tuple[int, ...] | None = tuple(int(length) for length in dynamic)
    else:
        wanted = ints(layer.reshape_dims)
        # No reshape dimensions read as none at all, and so does a reshape to a scalar: the output's rank tells.
        if not wanted and call.output_rank:
            wanted = None
    if wanted is not None:
        x = np.reshape(x, resolved_shape(call, wanted, x.shape, zero_copies=bool(layer.zero_is_placeholder)))
    return np.transpose(x, ints_of_permutation(layer.second_transpose, x.ndim))


def ints_of_permutation(permutation: object, rank: int) -> tuple[int, ...]:
    """The first `rank` entries: a Permutation always has eight, and is the identity by default."""
    entries = tuple(int(permutation[i]) for i in range(min(rank, len(permutation))))  # type: ignore[index, arg-type]
    return entries if sorted(entries) == list(range(rank)) else tuple(range(rank))


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
