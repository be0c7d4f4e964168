"""Position-wise feed-forward sublayers, without the skip connection: that is Residual's."""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

from trtllm_ext.checkpoint.contract import check_activation
from trtllm_ext.errors import ConfigError
from trtllm_ext.graph import Module, Tensor
from trtllm_ext.layers import plugin_roads
from trtllm_ext.layers.linear import ColumnLinear, RowLinear
from trtllm_ext.layers.tensor_parallel import check_sequence_parallel, check_summed, gather_tokens, shard_size

if TYPE_CHECKING:
    from trtllm_ext.graph.functional import AllReduceParams


def check_clamp(clamp: float | None) -> float | None:
    """`clamp`, a limit above 0, or None for no limit; raises ConfigError for others."""
    if clamp is not None and not clamp > 0:
        raise ConfigError(f"clamp={clamp} must be above 0, or None for no limit.")
    return clamp


class FeedForward(Module):
    """FFN(x) = act(x W1 + b1) W2 + b2 (Vaswani et al. 2017, section 3.3), each token by itself.

    fc: W1, (ffn_hidden_size, hidden_size), its rows split over tp_size ranks; proj: W2, its columns. The ranks' shares
        are added once, inside proj.
    hidden_act: a name of `checkpoint.ACTIVATIONS`.
    bias: of both matrices; proj_bias: of the second one, where it differs.
    inner_norm: normalises what goes into proj, ffn_hidden_size wide; the child `inner_layernorm`. With tp_size above 1
        a norm over the same ranks, such as `RmsNorm(ffn_hidden_size, tp_group=..., tp_size=...)`.
    sequence_parallel: each rank has, and gets, its own tokens only, as many as any other.
    Raises ConfigError for an unknown activation, when tp_size does not divide ffn_hidden_size, for an inner_norm that
    is no Module, would see one rank's share only or is over other ranks, and for a tp_size above 1 without a tp_group.
    """

    def __init__(
        self,
        hidden_size: int,
        ffn_hidden_size: int,
        hidden_act: str = "relu",
        bias: bool = True,
        dtype: str | None = None,
        tp_group: list[int] | None = None,
        tp_size: int = 1,
        *,
        proj_bias: bool | None = None,
        inner_norm: Module | None = None,
        sequence_parallel: bool = False,
    ) -> None:
        super().__init__()
        self.hidden_act = check_activation(hidden_act)
        shard_size(hidden_size, 1, "hidden_size")
        shard_size(ffn_hidden_size, tp_size, "ffn_hidden_size")
        check_summed(tp_group, tp_size)
        self.fc = ColumnLinear(
            hidden_size, ffn_hidden_size, bias, dtype, tp_group, tp_size, gather_output=False
        )
        self.inner_layernorm = _check_inner_norm(inner_norm, tp_group, tp_size)
        self.sequence_parallel = check_sequence_parallel(sequence_parallel, tp_group, tp_size)
        proj_bias = bias if proj_bias is None else proj_bias
        self.proj = RowLinear(
            *(ffn_hidden_size, hidden_size, proj_bias, dtype, tp_group, tp_size),
            sequence_parallel=sequence_parallel,
        )

    def forward(self, hidden_states: Tensor, *, residual: Tensor | None = None) -> Tensor:
        """hidden_states: (..., hidden_size); the result has its shape and type.

        residual: of that shape and type, added to the result: a skip connection around the sublayer.
        """
        output = plugin_roads.feed_forward(self, hidden_states, residual)
        if output is not None:
            return output
        output = self.proj(self._before_proj(hidden_states))
        return output if residual is None else residual + output

    def partial(self, hidden_states: Tensor) -> Tensor:
        """This rank's share of the result, proj's bias not added: float32 on the embedded engine."""
        return self.proj.partial(self._normed_inner(hidden_states))

    def _before_proj(self, hidden_states: Tensor) -> Tensor:
        if self.sequence_parallel and self.proj.tp_group is not None:
            hidden_states = gather_tokens(hidden_states, self.proj.tp_group)
        return self._normed_inner(hidden_states)

    def _normed_inner(self, hidden_states: Tensor) -> Tensor:
        inner = self.inner(hidden_states)
        return inner if self.inner_layernorm is None else self.inner_layernorm(inner)

    def inner(self, hidden_states: Tensor) -> Tensor:
        """The activated values, (..., ffn_hidden_size / tp_size), before the inner norm."""
        return plugin_roads.activated(self.fc(hidden_states), None, self.hidden_act)


class GatedFeedForward(FeedForward):
    """proj(act(fc(x)) * gate(x)) (Shazeer 2020, "GLU variants improve transformer").

    TensorRT-LLM's names: `fc` is the activated matrix (Hugging Face's gate_proj), `gate` is the linear one
    (up_proj), `proj` is down_proj. Swapping fc and gate still runs, and is wrong.
    clamp, gate_offset: see `plugin.formulas.gated_activation`; hidden_act 'quick_gelu' with 7.0 and 1.0 is GPT-OSS's.
    Everything else, and what is raised, as FeedForward has it; also ConfigError for a clamp not above 0.
    """

    def __init__(
        self,
        hidden_size: int,
        ffn_hidden_size: int,
        hidden_act: str = "silu",
        bias: bool = True,
        dtype: str | None = None,
        tp_group: list[int] | None = None,
        tp_size: int = 1,
        *,
        proj_bias: bool | None = None,
        inner_norm: Module | None = None,
        clamp: float | None = None,
        gate_offset: float = 0.0,
        sequence_parallel: bool = False,
    ) -> None:
        super().__init__(
            hidden_size,
            ffn_hidden_size,
            hidden_act,
            bias,
            dtype,
            tp_group,
            tp_size,
            proj_bias=proj_bias,
            inner_norm=inner_norm,
            sequence_parallel=sequence_parallel,
        )
        self.gate = ColumnLinear(
            hidden_size, ffn_hidden_size, bias, dtype, tp_group, tp_size, gather_output=False
        )
        self.clamp = check_clamp(clamp)
        self.gate_offset = gate_offset

    @overload
    def forward(
        self, hidden_states: Tensor, *, residual: Tensor | None = None, all_reduce_params: None = None
    ) -> Tensor: ...

    @overload
    def forward(
        self,
        hidden_states: Tensor,
        *,
        residual: Tensor | None = None,
        all_reduce_params: AllReduceParams | None,
    ) -> Tensor | tuple[Tensor, Tensor]: ...

    def forward(
        self,
        hidden_states: Tensor,
        *,
        residual: Tensor | None = None,
        all_reduce_params: AllReduceParams | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """As FeedForward's. all_reduce_params: for proj, see `RowLinear.forward`, whose result this has then.

        Raises ConfigError for both: all_reduce_params have a residual of their own.
        """
        if all_reduce_params is None:
            return super().forward(hidden_states, residual=residual)
        if residual is not None:
            raise ConfigError("give the residual in all_reduce_params alone, where those are given.")
        return self.proj(self._before_proj(hidden_states), all_reduce_params=all_reduce_params)

    def inner(self, hidden_states: Tensor) -> Tensor:
        """The gated values, (..., ffn_hidden_size / tp_size), before the inner norm."""
        fc, gate = self.fc(hidden_states), self.gate(hidden_states)
        return plugin_roads.activated(fc, gate, self.hidden_act, self.clamp, self.gate_offset)


def _check_inner_norm(inner_norm: Module | None, tp_group: list[int] | None, tp_size: int) -> Module | None:
    if inner_norm is not None and not isinstance(inner_norm, Module):
        raise ConfigError(f"inner_norm must be a Module, not a {type(inner_norm).__name__}.")
    theirs = getattr(inner_norm, "tp_size", 1)
    if inner_norm is not None and theirs != tp_size:
        raise ConfigError(
            f"inner_norm with tp_size={theirs} inside a feed-forward with tp_size={tp_size}: its statistics are over "
            "the whole feed-forward width, of which a rank holds a share. Make the norm of the whole width, with the "
            "feed-forward's tp_group and tp_size."
        )
    ranks = getattr(inner_norm, "tp_group", None)
    if tp_size > 1 and ranks is not None and tp_group is not None and list(ranks) != list(tp_group):
        raise ConfigError(
            f"inner_norm over tp_group={list(ranks)} inside a feed-forward over tp_group={list(tp_group)}: its "
            "statistics would be those of other ranks' widths. Give both the same ranks in the same order."
        )
    return inner_norm
