"""Collective operations over the ranks that hold parts of a network.

In a group of one rank each is the identity. Over several ranks they need TensorRT-LLM's compiled plugins and are
refused by name.
"""

from collections.abc import Sequence

from trtllm_ext.errors import GraphError
from trtllm_ext.graph.functional.elementwise import add
from trtllm_ext.graph.functional.enumerations import AllReduceConfig, AllReduceFusionOp, AllReduceStrategy
from trtllm_ext.graph.functional.normalization import rms_norm
from trtllm_ext.graph.functional.operands import one_dim, require_tensor
from trtllm_ext.graph.functional.plugins import needs_plugin
from trtllm_ext.graph.layer import fail
from trtllm_ext.graph.tensor import Tensor


class AllReduceParams:
    """What an all-reduce computes beside the sum, and how.

    strategy: how GPUs exchange the data; of no effect in a group of one.
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


def allreduce(
    tensor: Tensor, group: Sequence[int], all_reduce_params: AllReduceParams | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    """The sum of `tensor` over the ranks of `group`.

    With fusion_op=RESIDUAL_RMS_NORM the pair (rms_norm(total) * norm_weight, total), where total is the sum with bias
    and residual added.
    Raises GraphError for a group of several ranks, and for another fusion_op.
    """
    params = AllReduceParams() if all_reduce_params is None else all_reduce_params
    _require_one(tensor, group, "allreduce", "AllReduce")
    if params.fusion_op == AllReduceFusionOp.NONE:
        return tensor
    if params.fusion_op != AllReduceFusionOp.RESIDUAL_RMS_NORM:
        name = AllReduceFusionOp(params.fusion_op).name
        raise fail(f"allreduce with fusion_op={name} is not available; RESIDUAL_RMS_NORM is")
    total = tensor if params.bias is None else add(tensor, params.bias)
    total = add(total, require_tensor(params.residual, "residual"))
    return rms_norm(total, total.shape[-1], weight=params.norm_weight, eps=params.eps), total


def allgather(tensor: Tensor, group: Sequence[int], gather_dim: int = 0) -> Tensor:
    """The tensors of the ranks of `group` put together along `gather_dim`. Raises GraphError for several ranks."""
    one_dim(gather_dim, require_tensor(tensor, "tensor").rank())
    return _require_one(tensor, group, "allgather", "AllGather")


def reduce_scatter(tensor: Tensor, group: Sequence[int]) -> Tensor:
    """This rank's part, along the first dimension, of the sum over `group`. Raises GraphError for several ranks."""
    return _require_one(tensor, group, "reduce_scatter", "ReduceScatter")


def send(tensor: Tensor, tgt: int) -> Tensor:
    """Not available: sends `tensor` to rank `tgt`. Always raises GraphError."""
    raise needs_plugin("send", "Send", f"Keep what goes to rank {tgt} in one network.")


def recv(tensor: Tensor, src: int) -> Tensor:
    """Not available: receives what rank `src` sends. Always raises GraphError."""
    raise needs_plugin("recv", "Recv", f"Keep what comes from rank {src} in one network.")


def _require_one(tensor: Tensor, group: Sequence[int], name: str, plugin: str) -> Tensor:
    if len(group) == 0:
        raise fail(f"{name} over an empty group; it takes the list of ranks")
    if len(group) > 1:
        raise needs_plugin(
            f"{name} over the {len(group)} ranks {list(group)}", plugin, "Use a group of one rank."
        )
    return require_tensor(tensor, "tensor")
