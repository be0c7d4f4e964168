"""Tensors put together."""

from collections.abc import Sequence

from trtllm_ext.graph.functional.operands import (
    constants_to_tensors_,
    one_dim,
    require_same_dtype,
)
from trtllm_ext.graph.functional.shaping import expand_dims, view
from trtllm_ext.graph.layer import add_layer, fail, output
from trtllm_ext.graph.tensor import Tensor


def concat(inputs: Sequence[Tensor | int], dim: int = 0) -> Tensor:
    """The inputs one after the other along one dimension.

    inputs: Tensors of one type; ints become constants of it (int32 beside int64 is cast), and rank-0 Tensors count as
        shape (1,), which is how shapes are put together: concat([shape(x, 0), 8, 64]).
    Raises GraphError for an empty list, or types that differ.
    """
    if not inputs:
        raise fail("concat of an empty list; give at least one tensor")
    tensors = [each if each.rank() else view(each, [1]) for each in constants_to_tensors_(*inputs)]
    require_same_dtype(*tensors)
    layer = add_layer("add_concatenation", tensors)
    layer.axis = one_dim(dim, tensors[0].rank())
    return output(layer, tensors[0].dtype)


def stack(inputs: Sequence[Tensor], dim: int = 0) -> Tensor:
    """The inputs one after the other along a new dimension `dim`."""
    return concat([expand_dims(each, dim) for each in inputs], dim)
