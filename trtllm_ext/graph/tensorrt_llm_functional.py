"""`tensorrt_llm.functional`, as `trtllm_ext.graph.functional` is: its own functions but for those below.

Those are the ones that layers here call in a way that TensorRT-LLM's own do not take, or take otherwise. Imported only
where TensorRT-LLM's graph API is in use.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import ml_dtypes
import numpy as np

_theirs = import_module("tensorrt_llm.functional")


def __getattr__(name: str) -> Any:
    return getattr(_theirs, name)


def __dir__() -> list[str]:
    return dir(_theirs)


def numpy_form(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A contiguous array whose type TensorRT-LLM knows: its bfloat16 and fp8 are void types of its own."""
    utils = import_module("tensorrt_llm._utils")
    stand_ins = {
        np.dtype(ml_dtypes.bfloat16): utils.np_bfloat16,
        np.dtype(ml_dtypes.float8_e4m3fn): utils.np_float8,
    }
    array = np.ascontiguousarray(array).reshape(array.shape)  # the former gives no axis one
    return array.view(stand_ins[array.dtype]) if array.dtype in stand_ins else array


def constant(ndarray: np.ndarray[Any, Any]) -> Any:
    """Takes the types of `ml_dtypes` too."""
    return _theirs.constant(numpy_form(ndarray))


def layer_norm(
    input: Any,
    normalized_shape: int | tuple[int, ...],
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-05,
    use_diff_of_squares: bool = True,
) -> Any:
    """Works without weight and bias, for which TensorRT-LLM's makes no numbers."""
    weight = 1.0 if weight is None else weight
    bias = 0.0 if bias is None else bias
    return _theirs.layer_norm(input, normalized_shape, weight, bias, eps, use_diff_of_squares)


def expand(input: Any, expand_shape: Any) -> Any:
    """Takes sizes, of which TensorRT-LLM's wants a Tensor."""
    is_tensor = isinstance(expand_shape, _theirs.Tensor)
    return _theirs.expand(input, expand_shape if is_tensor else _theirs.concat(list(expand_shape)))


def flatten(input: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    """Joins dimensions of which some vary, too: TensorRT-LLM's multiplies their sizes, of which those are -1."""
    rank = input.rank()
    begin, end = start_dim % rank, end_dim % rank
    sizes = list(input.shape)
    joined, after = sizes[begin : end + 1], sizes[end + 1 :]
    flat = -1 if -1 in joined else math.prod(joined)
    if -1 not in after:
        return _theirs.view(input, [*[0] * begin, flat, *after])
    lengths = [_theirs.shape(input, dim) for dim in range(rank)]
    return _theirs.view(
        input, _theirs.concat([*lengths[:begin], flat, *lengths[end + 1 :]]), zero_is_placeholder=False
    )


def arange(start: Any, end: Any, dtype: str) -> Any:
    """Takes a number beside a Tensor of one element, of which TensorRT-LLM's wants neither or both."""
    tensors = [each for each in (start, end) if isinstance(each, _theirs.Tensor)]
    if not tensors:
        return _theirs.arange(start, end, dtype)
    return _theirs.arange(*(_scalar(each, tensors[0].dtype) for each in (start, end)), dtype)


def _scalar(value: Any, dtype: Any) -> Any:
    """A Tensor without axes."""
    if isinstance(value, _theirs.Tensor):
        return value if value.rank() == 0 else _theirs.view(value, [])
    return _theirs.constant_to_tensor_(value, dtype, to_array=False)


def allreduce(tensor: Any, group: Sequence[int], all_reduce_params: Any = None) -> Any:
    """The plain sum by default: TensorRT-LLM's default is one object that all calls change."""
    params = all_reduce_params or _theirs.AllReduceParams(strategy=_theirs.AllReduceStrategy.NCCL)
    return _theirs.allreduce(tensor, list(group), params)
