"""Shapes as tensors."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from trtllm_ext.graph.dtypes import trt_dtype_to_np
from trtllm_ext.graph.functional.constants import cast, constant
from trtllm_ext.graph.functional.elementwise import int_clip
from trtllm_ext.graph.functional.operands import one_dim
from trtllm_ext.graph.layer import add_layer, output
from trtllm_ext.graph.tensor import Tensor


def shape(
    input: Tensor,
    dim: int | None = None,
    cast_to_dtype: Any = None,
    clip_before_cast: Sequence[int] | None = None,
) -> Tensor:
    """The sizes of `input` as a rank-1 integer Tensor, or the size of one dimension as a rank-0 one.

    cast_to_dtype: the type of the result; int64 by default (int32 on a TensorRT without int64).
    clip_before_cast: [lower, upper] that the sizes are limited to first.
    Cost: one IShapeLayer for each tensor however often it is asked; a known size is a constant.
    """
    if dim is None:
        result = _shape(input)
    else:
        dim = one_dim(dim, input.rank())
        size = input.shape[dim]
        if size == -1:
            whole = _shape(input)
            index = constant(np.array(dim, dtype=trt_dtype_to_np(whole.dtype)))
            result = output(add_layer("add_gather", whole, index, 0), whole.dtype)
            result.dim_of = (id(input), dim)
        else:
            result = constant(np.array(size, dtype=_index_numpy()))
    if clip_before_cast is not None:
        result = int_clip(result, clip_before_cast[0], clip_before_cast[1])
    return result if cast_to_dtype is None else cast(result, cast_to_dtype)


def _shape(input: Tensor) -> Tensor:
    if input.shape_tensor is None:
        layer = add_layer("add_shape", input)
        input.shape_tensor = output(layer)
    return input.shape_tensor


def _index_numpy() -> Any:
    from trtllm_ext.graph.dtypes import index_dtype

    return trt_dtype_to_np(index_dtype())
