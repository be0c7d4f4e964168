"""Tensors turned round and tensors with a margin: slices that start outside of their input or go backwards."""

from collections.abc import Sequence
from typing import Any

from trtllm_ext.backend import tensorrt
from trtllm_ext.graph.dtypes import Scalar, index_dtype
from trtllm_ext.graph.functional.constants import cast
from trtllm_ext.graph.functional.elementwise import add, sub
from trtllm_ext.graph.functional.inspection import shape
from trtllm_ext.graph.functional.joining import concat
from trtllm_ext.graph.functional.operands import (
    dim_resolve_negative,
    int_vector,
    require_index_dtype,
    require_tensor,
)
from trtllm_ext.graph.functional.selection import index_select
from trtllm_ext.graph.functional.shaping import flatten
from trtllm_ext.graph.functional.slicing import slice
from trtllm_ext.graph.layer import fail
from trtllm_ext.graph.tensor import Tensor


def flip(input: Tensor, dims: Sequence[int]) -> Tensor:
    """The elements of the dimensions `dims` in reverse order.

    dims: may be negative; their sizes may vary (in TensorRT-LLM none may, but the first of all).
    Raises GraphError for a dimension that is out of range or named twice.
    """
    sizes = require_tensor(input, "input").shape
    turned = dim_resolve_negative(dims, len(sizes))
    starts: list[Any] = [0] * len(sizes)
    for dim in turned:
        starts[dim] = sub(shape(input, dim), 1) if sizes[dim] == -1 else sizes[dim] - 1
    strides = [-1 if dim in turned else 1 for dim in range(len(sizes))]
    return slice(input, starts, shape(input) if -1 in sizes else sizes, strides)


def pad(
    input: Tensor, pad: Sequence[int] | Tensor, mode: str = "constant", value: Scalar | None = None
) -> Tensor:
    """`input` with a margin around it, as in torch.nn.functional.pad.

    pad: pairs (before, after), of the last dimension first; a list, or an integer Tensor of known length. Negative
        numbers cut off.
    mode: "constant" is the only one. value: what the margin holds, 0 by default.
    Raises GraphError for an odd number of items, more pairs than dimensions, or another mode.
    """
    if mode != "constant":
        raise fail(f"pad knows mode='constant' only, got {mode!r}")
    rank = require_tensor(input, "input").rank()
    if isinstance(pad, Tensor):
        require_index_dtype(pad, "pad")
        pad = flatten(pad)
    count = pad.shape[0] if isinstance(pad, Tensor) else len(pad)
    if count < 0 or count % 2 or count > 2 * rank:
        raise fail(f"pad takes a pair (before, after) for up to {rank} dimensions, got {count} items")
    if isinstance(pad, Tensor):
        starts, sizes = _varying_window(input, pad, count)
    else:
        starts, sizes = _known_window(input, [int(item) for item in pad])
    fill = 0 if value is None else value
    return slice(input, starts, sizes, mode=tensorrt().SampleMode.FILL, fill_value=fill)


def _known_window(input: Tensor, pad: list[int]) -> tuple[Any, Any]:
    """Starts and sizes of the slice that has the margins `pad`."""
    rank = input.rank()
    starts = [0] * rank
    sizes: list[Any] = [shape(input, i) if size == -1 else size for i, size in enumerate(input.shape)]
    for i, (before, after) in enumerate(zip(pad[::2], pad[1::2], strict=True)):
        dim = rank - 1 - i
        starts[dim] = -before
        sizes[dim] = sizes[dim] + (before + after)
        if isinstance(sizes[dim], int) and sizes[dim] < 0:
            raise fail(f"pad cuts {-before - after} elements off dimension {dim} of {input.shape}")
    return starts, sizes


def _varying_window(input: Tensor, pad: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The same for margins that are known at run time only."""
    pairs = count // 2
    untouched = int_vector([0] * (input.rank() - pairs))
    margins = cast(pad, index_dtype())
    order = [2 * (pairs - 1 - i) for i in range(pairs)]
    before, after = (
        index_select(margins, 0, int_vector([place + offset for place in order])) for offset in (0, 1)
    )
    if pairs < input.rank():
        before, after = concat([untouched, before]), concat([untouched, after])
    return sub(0, before), add(shape(input), add(before, after))
