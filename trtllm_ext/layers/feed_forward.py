"""Position-wise feed-forward sublayers, without the skip connection: that is Residual's."""

from __future__ import annotations

from trtllm_ext.checkpoint.contract import check_activation
from trtllm_ext.graph import Module, Tensor
from trtllm_ext.layers.activation import activate
from trtllm_ext.layers.linear import ColumnLinear, RowLinear, shard_size


class FeedForward(Module):
    """FFN(x) = act(x W1 + b1) W2 + b2 (Vaswani et al. 2017, section 3.3), each token by itself.

    fc: W1, (ffn_hidden_size, hidden_size), its rows split over tp_size ranks; proj: W2, its columns.
    hidden_act: a name of `checkpoint.ACTIVATIONS`.
    Raises ConfigError for an unknown activation and when tp_size does not divide ffn_hidden_size.
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
    ) -> None:
        super().__init__()
        self.hidden_act = check_activation(hidden_act)
        shard_size(hidden_size, 1, "hidden_size")
        shard_size(ffn_hidden_size, tp_size, "ffn_hidden_size")
        self.fc = ColumnLinear(
            hidden_size, ffn_hidden_size, bias, dtype, tp_group, tp_size, gather_output=False
        )
        self.proj = RowLinear(ffn_hidden_size, hidden_size, bias, dtype, tp_group, tp_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """hidden_states: (..., hidden_size); the result has its shape and type."""
        return self.proj(activate(self.fc(hidden_states), self.hidden_act))


class GatedFeedForward(Module):
    """proj(act(fc(x)) * gate(x)) (Shazeer 2020, "GLU variants improve transformer").

    TensorRT-LLM's names: `fc` is the activated matrix (Hugging Face's gate_proj), `gate` is the linear one
    (up_proj), `proj` is down_proj. Swapping fc and gate still runs, and is wrong.
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
    ) -> None:
        super().__init__()
        self.hidden_act = check_activation(hidden_act)
        shard_size(hidden_size, 1, "hidden_size")
        shard_size(ffn_hidden_size, tp_size, "ffn_hidden_size")
        self.fc = ColumnLinear(
            hidden_size, ffn_hidden_size, bias, dtype, tp_group, tp_size, gather_output=False
        )
        self.gate = ColumnLinear(
            hidden_size, ffn_hidden_size, bias, dtype, tp_group, tp_size, gather_output=False
        )
        self.proj = RowLinear(ffn_hidden_size, hidden_size, bias, dtype, tp_group, tp_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """hidden_states: (..., hidden_size); the result has its shape and type."""
        return self.proj(activate(self.fc(hidden_states), self.hidden_act) * self.gate(hidden_states))
