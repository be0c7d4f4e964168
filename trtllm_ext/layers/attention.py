"""Plain multi-head self-attention, made of functional operations."""

from __future__ import annotations

import numpy as np

from trtllm_ext.checkpoint.dtypes import weight_dtype
from trtllm_ext.errors import ConfigError
from trtllm_ext.graph import Module, Tensor, functional
from trtllm_ext.layers.linear import ColumnLinear, RowLinear
from trtllm_ext.layers.tensor_parallel import check_summed, shard_size

# What is added to the score of a padding token. Beside the scores of real tokens, which stay far smaller, its exp
# is exactly 0 in every type; and being finite, it leaves a row of nothing but padding without NaN. float16 ends at
# 65504, so that a score may still be added.
MASKED_SCORE = {"float32": -1e30, "bfloat16": -1e30, "float16": -30000.0}


def additive_padding_mask(attention_mask: Tensor, dtype: str) -> Tensor:
    """What to add to attention scores: 0 for tokens to attend to, MASKED_SCORE for padding.

    attention_mask: int32 (batch, seq), 0 for padding. Returns (batch, 1, 1, seq) of type `dtype`.
    """
    array = weight_dtype(dtype)
    keep = functional.constant(np.zeros((1, 1), array))
    drop = functional.constant(np.full((1, 1), MASKED_SCORE[dtype], array))
    mask = functional.where(functional.cast(attention_mask, "bool"), keep, drop)
    return functional.expand_dims(mask, [1, 2])


class SelfAttention(Module):
    """softmax(q k^T / sqrt(head_size) + mask) v for each head, heads joined, then `dense`.

    Vaswani et al. 2017, section 3.2. qkv: one matrix, rows of q, then k, then v, heads in order within each;
    dense: (hidden_size, heads * head_size).
    Over tp_size ranks the heads are split: a rank's qkv has the rows of q of its heads, then of k, then of v; dense
    the columns of its heads. The ranks' shares are added once, inside dense.
    Raises ConfigError when hidden_size does not split over the heads, or the heads over tp_size, and for a
    tp_size above 1 without a tp_group.
    """

    def __init__(
        self,
        hidden_size: int,
        num_attention_heads: int,
        head_size: int | None = None,
        bias: bool = True,
        dense_bias: bool | None = None,
        dtype: str | None = None,
        tp_group: list[int] | None = None,
        tp_size: int = 1,
    ) -> None:
        super().__init__()
        shard_size(hidden_size, 1, "hidden_size")
        self.num_heads = shard_size(num_attention_heads, tp_size, "num_attention_heads")
        check_summed(tp_group, tp_size)
        self.head_size = head_size or _head_size(hidden_size, num_attention_heads)
        self.inner_size = self.num_heads * self.head_size
        inner = num_attention_heads * self.head_size
        self.qkv = ColumnLinear(hidden_size, 3 * inner, bias, dtype, tp_group, tp_size, gather_output=False)
        dense_bias = bias if dense_bias is None else dense_bias
        self.dense = RowLinear(inner, hidden_size, dense_bias, dtype, tp_group, tp_size)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """hidden_states: (batch, seq, hidden_size); the result has its shape and type.

        attention_mask: added to the scores, broadcast to (batch, heads, seq, seq), such as from
        `additive_padding_mask`.
        """
        parts = functional.split(self.qkv(hidden_states), self.inner_size, dim=2)
        q, k, v = (self._heads(part) for part in parts)
        # Before the product, which in float16 could overflow without it.
        scores = functional.matmul(q * self.head_size**-0.5, k, transb=True)
        if attention_mask is not None:
            scores = scores + attention_mask
        context = functional.matmul(functional.softmax(scores, dim=-1), v)
        joined = functional.view(functional.permute(context, [0, 2, 1, 3]), [0, 0, self.inner_size])
        return self.dense(joined)

    def _heads(self, x: Tensor) -> Tensor:
        """(batch, seq, heads * head_size) to (batch, heads, seq, head_size)."""
        return functional.permute(functional.view(x, [0, 0, self.num_heads, self.head_size]), [0, 2, 1, 3])


def _head_size(hidden_size: int, num_attention_heads: int) -> int:
    if hidden_size % num_attention_heads:
        raise ConfigError(
            f"hidden_size={hidden_size} does not split over num_attention_heads={num_attention_heads}; give head_size, "
            "or a number of heads that divides it."
        )
    return hidden_size // num_attention_heads
