"""Matrix layers. Weights are (out_features, in_features), as in checkpoints."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, overload

from trtllm_ext.errors import ConfigError
from trtllm_ext.graph import Module, Parameter, Tensor, functional
from trtllm_ext.layers.tensor_parallel import (
    check_group,
    check_sequence_parallel,
    shard_size,
    sum_over_ranks,
    wide,
)

if TYPE_CHECKING:
    from trtllm_ext.graph.functional import AllReduceParams


class Linear(Module):
    """x W^T + b, with W's rows split over tp_size ranks.

    weight: (out_features / tp_size, in_features); bias: (out_features / tp_size).
    gather_output: join the ranks' columns again after the product; without a tp_group they stay apart.
    Raises ConfigError when tp_size does not divide out_features.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        dtype: str | None = None,
        tp_group: list[int] | None = None,
        tp_size: int = 1,
        gather_output: bool = True,
    ) -> None:
        super().__init__()
        self.in_features = shard_size(in_features, 1, "in_features")
        self.out_features = shard_size(out_features, tp_size, "out_features")
        self.dtype = dtype or "float32"
        self.tp_group = check_group(tp_group, tp_size)
        self.tp_size = tp_size
        self.gather_output = gather_output
        self.weight = Parameter(shape=(self.out_features, self.in_features), dtype=self.dtype)
        if bias:
            self.bias = Parameter(shape=(self.out_features,), dtype=self.dtype)
        else:
            self.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in_features) of the layer's type, whole on every rank.

        Returns (..., out_features), or this rank's part of it, (..., out_features / tp_size), where not gathered.
        """
        output = _product(x, self.weight, self.bias)
        if self.gather_output and self.tp_size > 1 and self.tp_group is not None:
            return functional.allgather(output, self.tp_group, gather_dim=output.rank() - 1)
        return output


# As in TensorRT-LLM, the plain layer is the one whose weight is split by columns (of the transposed weight).
ColumnLinear = Linear


class RowLinear(Module):
    """x W^T + b, with W's columns, and so x's, split over tp_size ranks: the second matrix of a pair.

    weight: (out_features, in_features / tp_size); bias: (out_features), whole on every rank, added once, to the sum
        over the ranks, which is rounded to the layer's type once.
    tp_group: the ranks; without it a rank's share is not added to the others', though the bias is.
    is_expert: whoever holds the experts adds the ranks' shares up, each with its share of the bias, bias / tp_size.
    sequence_parallel: of the sum each rank gets its own part of the first axis only, which tp_size divides.
    Raises ConfigError when tp_size does not divide in_features, and for sequence_parallel without a tp_group or with
    is_expert.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        dtype: str | None = None,
        tp_group: list[int] | None = None,
        tp_size: int = 1,
        *,
        is_expert: bool = False,
        sequence_parallel: bool = False,
    ) -> None:
        super().__init__()
        self.in_features = shard_size(in_features, tp_size, "in_features")
        self.out_features = shard_size(out_features, 1, "out_features")
        self.dtype = dtype or "float32"
        self.tp_group = check_group(tp_group, tp_size)
        self.tp_size = tp_size
        self.is_expert = is_expert
        self.sequence_parallel = check_sequence_parallel(sequence_parallel, tp_group, tp_size)
        if is_expert and self.sequence_parallel:
            raise ConfigError(
                "sequence_parallel scatters a sum over the ranks, which is_expert leaves undone."
            )
        self.weight = Parameter(shape=(self.out_features, self.in_features), dtype=self.dtype)
        if bias:
            self.bias = Parameter(shape=(self.out_features,), dtype=self.dtype)
        else:
            self.register_parameter("bias", None)

    @overload
    def forward(self, x: Tensor, *, all_reduce_params: None = None) -> Tensor: ...

    @overload
    def forward(
        self, x: Tensor, *, all_reduce_params: AllReduceParams | None
    ) -> Tensor | tuple[Tensor, Tensor]: ...

    def forward(
        self, x: Tensor, *, all_reduce_params: AllReduceParams | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """x: (..., in_features / tp_size) of the layer's type; returns (..., out_features).

        all_reduce_params: as `functional.allreduce` takes them. With fusion_op=RESIDUAL_RMS_NORM the result is its
        pair, (rms_norm(total) * norm_weight, total), over one rank, too; the layer's bias, where it has one, takes the
        place of theirs in total. Both are rounded once, total to the residual's type.
        Raises ConfigError for a fusion_op where this layer makes no sum over the ranks, or scatters it.
        """
        plain = functional.AllReduceFusionOp.NONE
        if all_reduce_params is not None and all_reduce_params.fusion_op != plain:
            return self._fused(x, all_reduce_params)
        if self.tp_size == 1 or self.tp_group is None:
            return _product(x, self.weight, self.bias)
        if self.is_expert:
            return self._expert_share(x)
        total = sum_over_ranks(self.partial(x), self.tp_group, self.sequence_parallel)
        total = functional.cast(total, x.dtype)
        return total if self.bias is None else total + self.bias.value

    def partial(self, x: Tensor) -> Tensor:
        """This rank's share of the product, without the bias: (..., out_features), float32 on the embedded engine."""
        return functional.matmul(wide(x), wide(self.weight.value), transb=True)

    def _fused(self, x: Tensor, params: AllReduceParams) -> tuple[Tensor, Tensor]:
        """The sum over the ranks and what params has follow it, all in the type of the partial products."""
        if self.tp_size > 1 and (self.tp_group is None or self.is_expert or self.sequence_parallel):
            name = functional.AllReduceFusionOp(params.fusion_op).name
            raise ConfigError(
                f"fusion_op={name} follows the whole sum over the ranks, which a "
                "RowLinear does not make without a tp_group, with is_expert or with sequence_parallel. Leave "
                "all_reduce_params out, and add residual and norm behind the sum."
            )
        assert params.residual is not None
        partial, own = self.partial(x), copy.copy(params)
        bias = params.bias if self.bias is None else self.bias.value
        own.bias = None if bias is None else functional.cast(bias, partial.dtype)
        own.residual = functional.cast(params.residual, partial.dtype)
        if params.norm_weight is not None:
            own.norm_weight = functional.cast(params.norm_weight, partial.dtype)
        pair = functional.allreduce(partial, self.tp_group or [0], own)
        assert isinstance(pair, tuple)  # or the fusion_op was refused
        normed, total = pair
        return functional.cast(normed, x.dtype), functional.cast(total, params.residual.dtype)

    def _expert_share(self, x: Tensor) -> Tensor:
        share = self.partial(x)
        if self.bias is not None:
            share = share + functional.cast(self.bias.value, share.dtype) * (1.0 / self.tp_size)
        return functional.cast(share, x.dtype)


def _product(x: Tensor, weight: Parameter, bias: Parameter | None) -> Tensor:
    product = functional.matmul(x, weight.value, transb=True)
    return product if bias is None else product + bias.value
