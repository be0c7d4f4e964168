"""Elements by index or by condition: gather, select, where."""

import numpy as np

from trtllm_ext.backend import tensorrt
from trtllm_ext.graph.dtypes import Scalar, index_dtype, trt_dtype_to_np
from trtllm_ext.graph.functional.constants import constant
from trtllm_ext.graph.functional.operands import (
    broadcast_helper,
    expand_rank,
    one_dim,
    require_bool,
    require_index_dtype,
)
from trtllm_ext.graph.functional.shaping import squeeze
from trtllm_ext.graph.layer import add_layer, fail, output
from trtllm_ext.graph.tensor import Tensor


def gather(input: Tensor, dim: int, indices: Tensor | int) -> Tensor:
    """For each index in `indices` the element of `input` at it along `dim`; all else as in torch.gather.

    indices: of the input's rank; an int is a rank-1 index. The result has its shape.
    Raises GraphError when the ranks differ.
    """
    if isinstance(indices, int):
        indices = _index(indices, (1,))
    require_index_dtype(indices, "indices")
    if input.rank() != indices.rank():
        raise fail(
            f"gather takes indices of the input's rank, got {indices.shape} for {input.shape}; see index_select for a "
            "list of indices"
        )
    layer = add_layer("add_gather_v2", input, indices, tensorrt().GatherMode.ELEMENT)
    layer.axis = one_dim(dim, input.rank())
    return output(layer, input.dtype)


def index_select(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """The slices of `input` at `index` (rank 1) along `dim`."""
    require_index_dtype(index, "index")
    if index.rank() != 1:
        raise fail(f"index_select takes a rank-1 index, got the shape {index.shape}")
    return output(add_layer("add_gather", input, index, one_dim(dim, input.rank())), input.dtype)


def gather_nd(input: Tensor, indices: Tensor, batch_dims: int = 1) -> Tensor:
    """The elements or slices of `input` at the index rows of `indices`: ONNX's GatherND.

    indices: integers (..., n); each row indexes the n dimensions behind the first batch_dims, which both share.
    The result has the shape indices.shape[:-1] + input.shape[batch_dims + n:].
    """
    require_index_dtype(indices, "indices")
    layer = add_layer("add_gather_v2", input, indices, tensorrt().GatherMode.ND)
    layer.num_elementwise_dims = batch_dims
    return output(layer, input.dtype)


def select(input: Tensor, dim: int, index: Tensor | int) -> Tensor:
    """The slice of `input` at `index` along `dim`, without that dimension.

    dim: may be negative, which TensorRT-LLM does not handle.
    index: an int, counted from the end if negative (then the size must be known); or an integer Tensor of one element,
        of shape () or (1,).
    """
    dim = one_dim(dim, input.rank())
    if isinstance(index, Tensor):
        require_index_dtype(index, "index")
        if index.rank() > 1:
            raise fail(f"select takes one index, got the shape {index.shape}")
        picked = output(add_layer("add_gather", input, index, dim), input.dtype)
        return squeeze(picked, dim) if index.rank() else picked
    size = input.shape[dim]
    if index < 0 and size == -1:
        raise fail(
            f"select counts index {index} from the end of dimension {dim}, whose size varies: {input.shape}"
        )
    if size != -1 and not -size <= index < size:
        raise fail(f"select: index {index} is out of range for dimension {dim} of {input.shape}")
    # An index of rank 0 drops the dimension by itself.
    return output(
        add_layer("add_gather", input, _index(index % size if index < 0 else index, ()), dim), input.dtype
    )


def where(condition: Tensor | bool, left: Tensor | Scalar, right: Tensor | Scalar) -> Tensor:
    """`left` where `condition` is true, else `right`; shapes broadcast.

    condition: bool. left, right: of one type; a number takes the type of the other one (TensorRT-LLM makes it int32 or
        float32 whatever the other is), int32 or float32 when both are numbers.
    Raises GraphError for a condition that is not bool, or types that differ.
    """
    if not isinstance(condition, Tensor):
        condition = constant(np.array(bool(condition)))
    require_bool(condition, "condition")
    then, otherwise = broadcast_helper(left, right)
    rank = max(condition.rank(), then.rank())
    layer = add_layer("add_select", *(expand_rank(each, rank) for each in (condition, then, otherwise)))
    return output(layer, then.dtype)


def _index(value: int, shape: tuple[int, ...]) -> Tensor:
    return constant(np.full(shape, value, dtype=trt_dtype_to_np(index_dtype())))
