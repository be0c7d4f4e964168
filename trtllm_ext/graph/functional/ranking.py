"""The largest and smallest elements, and where they are."""

from typing import Any

from trtllm_ext.backend import tensorrt
from trtllm_ext.graph.functional.operands import dim_to_trt_axes, one_dim, require_index_dtype, require_tensor
from trtllm_ext.graph.functional.shaping import squeeze
from trtllm_ext.graph.layer import _create_tensor, add_layer, fail, output
from trtllm_ext.graph.tensor import Tensor


def topk(
    input: Tensor, k: int | Tensor, dim: int, largest: bool = True, prefer_plugin: bool = True
) -> tuple[Tensor, Tensor]:
    """The k largest (or smallest) elements along `dim`, the most extreme first, and their int32 indices.

    k: a number, or an integer Tensor of one element. TensorRT's limit is 3840.
    prefer_plugin: of no effect; TensorRT-LLM takes a plugin for the last dimension with it.
    Raises GraphError for a k below 1 or beyond the size of the dimension.
    """
    dim = one_dim(dim, require_tensor(input, "input").rank())
    size = input.shape[dim]
    if not isinstance(k, Tensor) and (k < 1 or -1 < size < k):
        raise fail(f"topk takes a k from 1 to the size {size} of dimension {dim}, got {k}")
    layer = _topk_layer(input, 1 if isinstance(k, Tensor) else int(k), dim, largest)
    if isinstance(k, Tensor):
        require_index_dtype(k, "k")
        if k.shape not in ((), (1,), (-1,)):
            raise fail(f"topk takes one k, got the shape {k.shape}")
        layer.set_input(1, (squeeze(k, 0) if k.rank() else k).trt_tensor)
    return output(layer, input.dtype), _create_tensor(layer.get_output(1), layer)


def argmax(input: Tensor, dim: int, keepdim: bool = False) -> Tensor:
    """The int32 index of the largest element along `dim`, the first of equal ones; `dim` stays with size 1 if keepdim.

    Raises GraphError when `dim` is out of range.
    """
    dim = one_dim(dim, require_tensor(input, "input").rank())
    layer = _topk_layer(input, 1, dim, True)
    indices = _create_tensor(layer.get_output(1), layer)
    return indices if keepdim else squeeze(indices, dim)


def _topk_layer(input: Tensor, k: int, dim: int, largest: bool) -> Any:
    operations = tensorrt().TopKOperation
    return add_layer(
        "add_topk", input, operations.MAX if largest else operations.MIN, k, dim_to_trt_axes(dim)
    )
