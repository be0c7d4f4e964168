"""Collective operations over the ranks that hold parts of a network.

In a group of one rank each is the identity. Over several ranks each is TensorRT's own collective layer, of which the
embedded engine and TensorRT from 11 on have one; every rank's network has the same collectives in the same order.
"""

from collections.abc import Iterable, Sequence
from typing import Any, overload

import numpy as np

from trtllm_ext import backend
from trtllm_ext.errors import GraphError
from trtllm_ext.graph.functional.constants import cast
from trtllm_ext.graph.functional.elementwise import add
from trtllm_ext.graph.functional.enumerations import AllReduceConfig, AllReduceFusionOp, AllReduceStrategy
from trtllm_ext.graph.functional.normalization import rms_norm
from trtllm_ext.graph.functional.operands import one_dim, require_tensor
from trtllm_ext.graph.functional.plugins import needs_plugin
from trtllm_ext.graph.functional.shaping import expand_dims, flatten, permute
from trtllm_ext.graph.layer import add_layer, fail, output
from trtllm_ext.graph.network import default_net
from trtllm_ext.graph.tensor import Tensor
from trtllm_ext.runtime.dtypes import dtype_name

# The plugins by which TensorRT-LLM computes the operations.
_PLUGINS = {"allreduce": "AllReduce", "allgather": "AllGather", "reduce_scatter": "ReduceScatter"}


class AllReduceParams:
    """What an all-reduce computes beside the sum, and how.

    strategy: how GPUs exchange the data; without effect, for the layer or the engine chooses.
    fusion_op: what follows the sum; one needs `residual`.
    bias, residual, norm_weight, scale, norm_pre_residual_weight, eps: what that takes.
    config: of TensorRT-LLM 0.16; enable_allreduce, trigger_completion_at_end: of later releases; all without effect.
    Raises GraphError for a fusion_op without residual.
    """

    def __init__(
        self,
        strategy: AllReduceStrategy = AllReduceStrategy.AUTO,
        fusion_op: AllReduceFusionOp = AllReduceFusionOp.NONE,
        bias: Tensor | None = None,
        residual: Tensor | None = None,
        norm_weight: Tensor | None = None,
        scale: Tensor | None = None,
        norm_pre_residual_weight: Tensor | None = None,
        eps: float = 1e-06,
        enable_allreduce: bool = True,
        trigger_completion_at_end: bool = True,
        *,
        config: AllReduceConfig | None = None,
    ) -> None:
        if fusion_op != AllReduceFusionOp.NONE and residual is None:
            raise GraphError(
                f"fusion_op={AllReduceFusionOp(fusion_op).name} adds a residual; give residual=."
            )
        self.strategy = strategy
        self.fusion_op = fusion_op
        self.bias = bias
        self.residual = residual
        self.norm_weight = norm_weight
        self.scale = scale
        self.norm_pre_residual_weight = norm_pre_residual_weight
        self.eps = eps
        self.enable_allreduce = enable_allreduce
        self.trigger_completion_at_end = trigger_completion_at_end
        self.config = AllReduceConfig(0) if config is None else config

    def has_affine(self) -> int:
        """1 if there is a norm_weight, else 0."""
        return int(self.norm_weight is not None)

    def has_bias(self) -> int:
        """1 if there is a bias, else 0."""
        return int(self.bias is not None)

    def has_scale(self) -> int:
        """1 if there is a scale, else 0."""
        return int(self.scale is not None)

    def update_strategy(self) -> None:
        """Keeps the strategy: TensorRT-LLM replaces AUTO here where its user buffers are on, which ours has not."""


@overload
def allreduce(tensor: Tensor, group: Sequence[int], all_reduce_params: None = None) -> Tensor: ...


@overload
def allreduce(
    tensor: Tensor, group: Sequence[int], all_reduce_params: AllReduceParams | None
) -> Tensor | tuple[Tensor, Tensor]: ...


def allreduce(
    tensor: Tensor, group: Sequence[int], all_reduce_params: AllReduceParams | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    """The sum of `tensor` over the ranks of `group`: of its shape and type, the same on all of them.

    group: global ranks; the sum goes through them in this order. On the embedded engine float16 and bfloat16 are summed
        in float32 and rounded once.
    With fusion_op=RESIDUAL_RMS_NORM the pair (rms_norm(total) * norm_weight, total), where total is the sum with bias
    and residual added; otherwise bias and residual have no effect.
    Raises GraphError for a group that is none, for several ranks without a layer for them, and for another fusion_op.
    """
    params = AllReduceParams() if all_reduce_params is None else all_reduce_params
    ranks = _ranks("allreduce", group)
    if params.fusion_op not in (AllReduceFusionOp.NONE, AllReduceFusionOp.RESIDUAL_RMS_NORM):
        name = AllReduceFusionOp(params.fusion_op).name
        raise fail(f"allreduce with fusion_op={name} is not available; RESIDUAL_RMS_NORM is")
    total = _reduced("allreduce", "ALL_REDUCE", require_tensor(tensor, "tensor"), ranks)
    if params.fusion_op == AllReduceFusionOp.NONE:
        return total
    if params.bias is not None:
        total = add(total, params.bias)
    total = add(total, require_tensor(params.residual, "residual"))
    return rms_norm(total, total.shape[-1], weight=params.norm_weight, eps=params.eps), total


def allgather(tensor: Tensor, group: Sequence[int], gather_dim: int = 0) -> Tensor:
    """The tensors of the ranks of `group` one after the other, in the order of the group, along `gather_dim`.

    Cost: along another dimension than the first, a transposition of the result.
    Raises GraphError for a group that is none, and for several ranks without a layer for them.
    """
    dim = one_dim(gather_dim, require_tensor(tensor, "tensor").rank())
    ranks = _ranks("allgather", group)
    if len(ranks) == 1:
        return tensor
    if dim == 0:
        return _collective("allgather", "ALL_GATHER", "NONE", tensor, ranks)
    # Each rank's tensor behind a new first dimension, which then moves in front of the one that grows.
    parts = _collective("allgather", "ALL_GATHER", "NONE", expand_dims(tensor, 0), ranks)
    order = [*range(1, dim + 1), 0, *range(dim + 1, tensor.rank() + 1)]
    return flatten(permute(parts, order), dim, dim + 1)


def reduce_scatter(tensor: Tensor, group: Sequence[int]) -> Tensor:
    """This rank's part, along the first dimension, of the sum over `group`; rounded as in `allreduce`.

    tensor: (length, ...); the parts are equal, so length is a multiple of the number of ranks.
    Raises GraphError for a group that is none, a length that does not split, and ranks without a layer for them.
    """
    ranks = _ranks("reduce_scatter", group)
    length = require_tensor(tensor, "tensor").shape[one_dim(0, tensor.rank())]
    if length % len(ranks) and length != -1:
        up = -(-length // len(ranks)) * len(ranks)
        raise fail(
            f"reduce_scatter: the first dimension of {tensor.shape} does not split into {len(ranks)} equal parts; "
            f"pad it to {up}, or use allreduce"
        )
    return _reduced("reduce_scatter", "REDUCE_SCATTER", tensor, ranks)


def send(tensor: Tensor, tgt: int) -> Tensor:
    """Not available: sends `tensor` to rank `tgt`. Always raises GraphError."""
    raise needs_plugin("send", "Send", f"Keep what goes to rank {tgt} in one network.")


def recv(tensor: Tensor, src: int) -> Tensor:
    """Not available: receives what rank `src` sends. Always raises GraphError."""
    raise needs_plugin("recv", "Recv", f"Keep what comes from rank {src} in one network.")


def _ranks(name: str, group: Any) -> list[int]:
    if not isinstance(group, Iterable) or isinstance(group, str):
        raise fail(f"{name} over group={group!r}; it takes the list of ranks, as in [0, 1]")
    ranks = list(group)
    if not ranks:
        raise fail(f"{name} over an empty group; it takes the list of ranks")
    for rank in ranks:
        if isinstance(rank, bool) or not isinstance(rank, int | np.integer) or rank < 0:
            raise fail(
                f"{name} over the group {ranks}: {rank!r} is no rank, which is a whole number from 0 on"
            )
        if ranks.count(rank) > 1:
            raise fail(f"{name} over the group {ranks}, in which rank {rank} is twice; name each rank once")
    return [int(rank) for rank in ranks]


def _reduced(name: str, operation: str, tensor: Tensor, ranks: list[int]) -> Tensor:
    """A collective that sums. On the embedded engine of narrow types in float32, so that it rounds once."""
    if len(ranks) == 1:
        return tensor
    trt = backend.tensorrt()
    narrow = dtype_name(tensor.dtype) in ("HALF", "BF16") and backend.choice().engine == "embedded"
    wide = cast(tensor, trt.DataType.FLOAT) if narrow else tensor
    return cast(_collective(name, operation, "SUM", wide, ranks), tensor.dtype)


def _collective(name: str, operation: str, reduction: str, tensor: Tensor, ranks: list[int]) -> Tensor:
    """The layer. name: of the function, for errors. operation, reduction: names in TensorRT's enumerations."""
    trt = backend.tensorrt()
    if not hasattr(default_net().trt_network, "add_dist_collective"):
        raise fail(
            f"{name} over the {len(ranks)} ranks {ranks} needs a collective layer, which this TensorRT "
            f"{trt.__version__} has not, or {_PLUGINS[name]}, a compiled plugin of TensorRT-LLM's. Use TensorRT 11 or "
            f"later, the embedded engine ({backend.ENVIRONMENT_VARIABLE}=embedded), or a group of one rank."
        )
    kinds = getattr(trt.CollectiveOperation, operation), getattr(trt.ReduceOperation, reduction)
    # -1: no rank is the root.
    layer = add_layer("add_dist_collective", tensor, *kinds, -1, ranks)
    layer.num_ranks = len(ranks)
    result = output(layer, tensor.dtype)  # which names the layer
    default_net().collectives[layer.name] = (operation.lower(), tuple(ranks))
    return result
