"""One layer of a model: its sublayers in residual blocks, as the contract says."""

from __future__ import annotations

from trtllm_ext.checkpoint import ModelConfig, NormContract, ResidualContract
from trtllm_ext.checkpoint.weights import ATTENTION_NORMS, feed_forward_norm_names
from trtllm_ext.graph import Module, Tensor
from trtllm_ext.layers import FeedForward, GatedFeedForward, LayerNorm, Residual, RmsNorm, SelfAttention


def norm_from_contract(norm: NormContract | None, hidden_size: int, dtype: str) -> Module | None:
    """The norm layer that the contract describes, or None."""
    if norm is None:
        return None
    if norm.kind == "layer_norm":
        return LayerNorm(hidden_size, eps=norm.eps, bias=norm.bias, dtype=dtype)
    return RmsNorm(hidden_size, eps=norm.eps, dtype=dtype)


class TransformerLayer(Module):
    """Attention, where the contract has it, and feed-forward, each in its residual block.

    Sublayers and norms are children under the checkpoint's names; the blocks only hold on to them.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        attention, feed_forward = config.contract.attention, config.contract.feed_forward
        self._attention: tuple[Residual, ...] = ()
        if attention is not None:
            self.attention = SelfAttention(
                config.hidden_size,
                config.num_attention_heads,
                config.head_size,
                bias=attention.qkv_bias,
                dense_bias=attention.dense_bias,
                dtype=config.dtype,
            )
            self._attention = (self._block(self.attention, attention.residual, ATTENTION_NORMS, config),)
        kind = GatedFeedForward if feed_forward.gated else FeedForward
        self.mlp = kind(
            config.hidden_size,
            config.intermediate_size,
            feed_forward.activation,
            bias=feed_forward.bias,
            dtype=config.dtype,
        )
        names = feed_forward_norm_names(feed_forward.residual)
        self._feed_forward = (self._block(self.mlp, feed_forward.residual, names, config),)

    def _block(
        self, sublayer: Module, residual: ResidualContract, names: tuple[str, str], config: ModelConfig
    ) -> Residual:
        norm = norm_from_contract(residual.norm, config.hidden_size, config.dtype)
        post_norm = norm_from_contract(residual.post_norm, config.hidden_size, config.dtype)
        for name, module in zip(names, (norm, post_norm), strict=True):
            if module is not None:
                setattr(self, name, module)
        placement = "pre" if residual.placement == "none" else residual.placement
        return Residual(sublayer, norm, placement, post_norm, residual.scale)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """hidden_states: (..., hidden_size); attention_mask as SelfAttention takes it."""
        for block in self._attention:
            hidden_states = block(hidden_states, attention_mask)
        for block in self._feed_forward:
            hidden_states = block(hidden_states)
        return hidden_states
