"""Running sums."""

import numpy as np

from trtllm_ext.backend import tensorrt
from trtllm_ext.graph.dtypes import index_dtype
from trtllm_ext.graph.functional.constants import arange, constant
from trtllm_ext.graph.functional.elementwise import gt
from trtllm_ext.graph.functional.inspection import shape
from trtllm_ext.graph.functional.operands import one_dim, require_tensor
from trtllm_ext.graph.functional.reduction import sum
from trtllm_ext.graph.functional.selection import where
from trtllm_ext.graph.functional.shaping import expand_dims
from trtllm_ext.graph.layer import add_layer, fail, output
from trtllm_ext.graph.network import default_trtnet
from trtllm_ext.graph.tensor import Tensor


def cumsum(input: Tensor, dim: int, prefer_plugin: bool = True) -> Tensor:
    """Element i along `dim` is the sum of the elements 0..i.

    prefer_plugin: of no effect; TensorRT-LLM takes a plugin for the last dimension with it.
    One ICumulativeLayer where TensorRT has it (10.10 on); else composed, which takes memory in proportion to the
    square of the dimension.
    Raises GraphError for rank 0, or a `dim` that is out of range.
    """
    rank = require_tensor(input, "input").rank()
    if rank == 0:
        raise fail("cumsum takes a tensor of rank 1 or more, got rank 0")
    dim = one_dim(dim, rank)
    if hasattr(default_trtnet(), "add_cumulative"):
        axis = constant(np.array(dim, dtype=np.int32))
        operation = tensorrt().CumulativeOperation.SUM
        return output(add_layer("add_cumulative", input, axis, operation, False, False), input.dtype)
    return _composed(input, dim)


def _composed(input: Tensor, dim: int) -> Tensor:
    """Sums over a square in which what comes later is zero (a product with zeros would spread infinities)."""
    places = arange(0, shape(input, dim), index_dtype())
    behind = range(input.rank() - 1 - dim)
    later = gt(
        expand_dims(places, [0, *(2 + i for i in behind)]), expand_dims(places, [1, *(2 + i for i in behind)])
    )
    return sum(where(later, 0, expand_dims(input, dim)), dim + 1)
