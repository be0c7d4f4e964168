"""Rows of a table by their number, also of a table that is spread over ranks."""

from collections.abc import Sequence

from trtllm_ext.graph.functional.collectives import allgather, allreduce
from trtllm_ext.graph.functional.elementwise import gt, lt, mul, op_and, sub
from trtllm_ext.graph.functional.inspection import shape
from trtllm_ext.graph.functional.joining import concat
from trtllm_ext.graph.functional.operands import require_index_dtype, require_tensor
from trtllm_ext.graph.functional.plugins import needs_plugin
from trtllm_ext.graph.functional.selection import where
from trtllm_ext.graph.functional.shaping import unsqueeze
from trtllm_ext.graph.layer import add_layer, fail, output
from trtllm_ext.graph.tensor import Tensor


def embedding(
    input: Tensor,
    weight: Tensor,
    tp_size: int = 1,
    tp_group: Sequence[int] | None = None,
    sharding_dim: int = 0,
    tp_rank: int | None = None,
    per_token_scale: Tensor | None = None,
    padding: Tensor | None = None,
) -> Tensor:
    """Rows of `weight` (num_embeddings, width): the result has the shape of `input` with width behind it.

    input: integer ids, each in 0..num_embeddings-1. A negative id counts from the end of the table, as in every gather
        of TensorRT's: nothing refuses it. Ids beyond both fail the run on the embedded engine; on NVIDIA's, their rows
        are undefined.
    padding: more rows, put behind the table.
    tp_size, tp_group, sharding_dim, tp_rank: of a table spread over the ranks of tp_group, of which `weight` is a part:
        the rows from tp_rank * num_embeddings on (sharding_dim 0) or some of the columns (1). Without tp_group the
        table is whole.
    per_token_scale: of a quantised table, which needs a plugin.
    Raises GraphError for ids that are not integers, a per_token_scale, and what `allreduce` and `allgather` refuse.
    """
    require_index_dtype(require_tensor(input, "input"), "input")
    if require_tensor(weight, "weight").rank() != 2:
        raise fail(f"embedding takes a weight (num_embeddings, width), got the shape {weight.shape}")
    if per_token_scale is not None:
        raise needs_plugin(
            "embedding with per_token_scale",
            "Lookup",
            "Dequantise the table first (quantization.functional).",
        )
    table = weight if padding is None else concat([weight, padding], 0)
    if tp_size <= 1 or tp_group is None:
        return _rows(table, input)
    if sharding_dim == 1:
        return allgather(_rows(table, input), tp_group, -1)
    if sharding_dim != 0:
        raise fail(f"a table is spread along its rows (sharding_dim 0) or columns (1), not {sharding_dim}")
    if tp_rank is None:
        raise fail("embedding of a table whose rows are spread over ranks needs tp_rank")
    return allreduce(_own_rows(table, input, weight, tp_rank), tp_group)


def _rows(table: Tensor, ids: Tensor) -> Tensor:
    return output(add_layer("add_gather", table, ids, 0), table.dtype)


def _own_rows(table: Tensor, ids: Tensor, weight: Tensor, rank: int) -> Tensor:
    """This rank's rows, and zeros for the ids whose rows are on another one."""
    count = weight.shape[0] if weight.shape[0] != -1 else shape(weight, 0, ids.dtype)
    local = sub(ids, mul(count, rank) if isinstance(count, Tensor) else count * rank)
    own = op_and(gt(local, -1), lt(local, count))
    return where(unsqueeze(own, -1), _rows(table, where(own, local, 0)), 0)
