"""Reductions over dimensions, and softmax."""

from collections.abc import Sequence
from typing import Any

from trtllm_ext.backend import tensorrt
from trtllm_ext.graph.functional.elementwise import sub
from trtllm_ext.graph.functional.operands import dim_resolve_negative, dim_to_trt_axes, one_dim
from trtllm_ext.graph.functional.unary import exp, log
from trtllm_ext.graph.layer import add_layer, output
from trtllm_ext.graph.tensor import Tensor


def reduce(input: Tensor, op: Any, dim: int | Sequence[int], keepdim: bool = False) -> Tensor:
    """`op` (a `trt.ReduceOperation`) over the dimensions `dim`, which stay with size one if keepdim."""
    axes = dim_to_trt_axes(dim_resolve_negative(dim, input.rank()))
    return output(add_layer("add_reduce", input, op, axes=axes, keep_dims=keepdim), input.dtype)


def mean(input: Tensor, dim: int | Sequence[int], keepdim: bool = False) -> Tensor:
    """The mean over the dimensions `dim`."""
    return reduce(input, tensorrt().ReduceOperation.AVG, dim, keepdim)


def sum(input: Tensor, dim: int | Sequence[int], keepdim: bool = False) -> Tensor:
    """The sum over the dimensions `dim`."""
    return reduce(input, tensorrt().ReduceOperation.SUM, dim, keepdim)


def max(input: Tensor, dim: int | Sequence[int], keepdim: bool = False) -> Tensor:
    """The largest element over the dimensions `dim`."""
    return reduce(input, tensorrt().ReduceOperation.MAX, dim, keepdim)


def min(input: Tensor, dim: int | Sequence[int], keepdim: bool = False) -> Tensor:
    """The smallest element over the dimensions `dim`."""
    return reduce(input, tensorrt().ReduceOperation.MIN, dim, keepdim)


def prod(input: Tensor, dim: int | Sequence[int], keepdim: bool = False) -> Tensor:
    """The product over the dimensions `dim`."""
    return reduce(input, tensorrt().ReduceOperation.PROD, dim, keepdim)


def softmax(input: Tensor, dim: int | None = None) -> Tensor:
    """exp(x) / sum(exp(x)) over one dimension, the last by default."""
    layer = add_layer("add_softmax", input)
    layer.axes = dim_to_trt_axes(one_dim(-1 if dim is None else dim, input.rank()))
    return output(layer, input.dtype)


def log_softmax(input: Tensor, dim: int) -> Tensor:
    """log(softmax(x)) over one dimension, without the overflow and the cancellation of the two one after the other."""
    shifted = sub(input, max(input, dim, keepdim=True))
    return sub(shifted, log(sum(exp(shifted), dim, keepdim=True)))
