"""The same elements several times."""

from collections.abc import Sequence
from typing import Any

from trtllm_ext.graph.functional.inspection import shape
from trtllm_ext.graph.functional.joining import concat
from trtllm_ext.graph.functional.operands import expand_rank, one_dim, require_index_dtype, require_tensor
from trtllm_ext.graph.functional.shaping import expand, expand_dims, flatten
from trtllm_ext.graph.layer import fail
from trtllm_ext.graph.tensor import Tensor


def repeat(input: Tensor, sizes: Sequence[int]) -> Tensor:
    """The whole of `input` put beside itself `sizes[i]` times in dimension i, as in torch.Tensor.repeat.

    sizes: at least as many as `input` has dimensions; for more, the input's shape gets 1s in front.
    Raises GraphError for fewer sizes, and for a size below 1.
    """
    if len(sizes) < require_tensor(input, "input").rank():
        raise fail(f"repeat takes a size for each dimension of {input.shape}, got {tuple(sizes)}")
    if any(isinstance(size, Tensor) or size < 1 for size in sizes):
        raise fail(f"repeat takes whole numbers from 1 on, got {tuple(sizes)}")
    result = expand_rank(input, len(sizes))
    for dim, times in enumerate(sizes):
        if times > 1:
            result = concat([result] * times, dim)
    return result


def repeat_interleave(tensor: Tensor, repeats: int | Tensor, dim: int) -> Tensor:
    """Each element `repeats` times in a row along `dim`: [a, b] -> [a, a, b, b].

    repeats: a number from 1 on, or an integer Tensor of rank 0. dim: may be negative.
    """
    dim = one_dim(dim, require_tensor(tensor, "tensor").rank())
    if isinstance(repeats, Tensor):
        require_index_dtype(repeats, "repeats")
        if repeats.rank() != 0:
            raise fail(f"repeats is a number or a Tensor of rank 0, got the shape {repeats.shape}")
    elif repeats < 1:
        raise fail(f"repeats is a number from 1 on, got {repeats}")
    column = expand_dims(tensor, dim + 1)
    sizes: list[Any] = [shape(column, i) if size == -1 else size for i, size in enumerate(column.shape)]
    sizes[dim + 1] = repeats
    return flatten(expand(column, sizes), dim, dim + 1)


def meshgrid2d(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Two grids (len(x), len(y)): the first holds x along its rows, the second y along its columns.

    That is torch.meshgrid(x, y, indexing="ij"). x, y: of shape (n,) or (1, n).
    """
    rows, columns = (_vector(each, name) for each, name in ((x, "x"), (y, "y")))
    sizes: list[Any] = [_length(rows), _length(columns)]
    return expand(expand_dims(rows, 1), sizes), expand(expand_dims(columns, 0), sizes)


def _vector(input: Tensor, name: str) -> Tensor:
    dims = require_tensor(input, name).shape
    if len(dims) == 2 and dims[0] == 1:
        return flatten(input)
    if len(dims) != 1:
        raise fail(f"meshgrid2d takes {name} of shape (n,) or (1, n), got {dims}")
    return input


def _length(vector: Tensor) -> Tensor | int:
    return shape(vector, 0) if vector.shape[0] == -1 else vector.shape[0]
