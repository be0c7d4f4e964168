"""Elements replaced by index or by mask, and the indices of what is not zero."""

from trtllm_ext.backend import tensorrt
from trtllm_ext.graph.functional.inspection import shape
from trtllm_ext.graph.functional.operands import (
    expand_rank,
    one_dim,
    require_bool,
    require_index_dtype,
    require_same_dtype,
    require_tensor,
)
from trtllm_ext.graph.functional.selection import gather_nd
from trtllm_ext.graph.functional.shaping import expand, flatten, permute
from trtllm_ext.graph.layer import add_layer, fail, output
from trtllm_ext.graph.tensor import Tensor


def scatter(input: Tensor, dim: int, indices: Tensor, updates: Tensor) -> Tensor:
    """`input` with `updates[i, j]` at (i, indices[i, j]) for dim=1, and so on: torch's scatter.

    indices: integers, updates: of the input's type; both of one shape and of the input's rank.
    Raises GraphError when types or ranks do not fit. Where two updates meet, which one stays is not defined.
    """
    _require_update(input, indices, updates)
    dim = one_dim(dim, input.rank())
    if not input.rank() == indices.rank() == updates.rank():
        raise fail(
            f"scatter takes input, indices and updates of one rank, got {input.shape}, {indices.shape} and "
            f"{updates.shape}"
        )
    layer = add_layer("add_scatter", input, indices, updates, tensorrt().ScatterMode.ELEMENT)
    layer.axis = dim
    return output(layer, input.dtype)


def scatter_nd(input: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """`input` with `source[i]` at the place `mask[i]`: ONNX's ScatterND.

    mask: integers (..., n), each row the first n indices of an element or a slice of `input`.
    source: of the input's type and the shape mask.shape[:-1] + input.shape[n:].
    """
    _require_update(input, mask, source)
    layer = add_layer("add_scatter", input, mask, source, tensorrt().ScatterMode.ND)
    return output(layer, input.dtype)


def nonzero(input: Tensor) -> Tensor:
    """The indices of the elements that are not zero (or True): int32 (rank, count), each column one, in row order.

    count is known after the run only: an output of such a shape goes through the output allocator.
    """
    return output(add_layer("add_non_zero", require_tensor(input, "input")))


def masked_select(input: Tensor, mask: Tensor) -> Tensor:
    """The elements of `input` where `mask` is True, in row order: (count,).

    mask: bool, of a shape that broadcasts to the input's.
    Raises GraphError for an input of rank 0, or a mask that is not bool.
    """
    places, input = _places(input, mask)
    return gather_nd(input, places, 0)


def masked_scatter(input: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """`input` with its elements where `mask` is True replaced by those of `source` in row order.

    mask: bool, of a shape that broadcasts to the input's. source: of the input's type; as many elements as the mask
        has True ones (torch also takes more, TensorRT does not).
    """
    require_same_dtype(input, require_tensor(source, "source"))
    places, input = _places(input, mask)
    return scatter_nd(input, places, flatten(source))


def _places(input: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The indices (count, rank) where the mask is True, and the input with the rank of both."""
    if require_tensor(input, "input").rank() == 0:
        raise fail("a mask selects elements of a tensor of rank 1 or more, got rank 0")
    rank = max(input.rank(), require_bool(mask, "mask").rank())
    input = expand_rank(input, rank)
    whole = expand(expand_rank(mask, rank), shape(input) if -1 in input.shape else input.shape)
    return permute(nonzero(whole), (1, 0)), input


def _require_update(input: Tensor, indices: Tensor, updates: Tensor) -> None:
    require_index_dtype(require_tensor(indices, "indices"), "indices")
    require_same_dtype(require_tensor(input, "input"), require_tensor(updates, "updates"))
