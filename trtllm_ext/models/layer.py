"""One layer of a model: its sublayers in residual blocks, as the contract says."""

from __future__ import annotations

from typing import Any

from trtllm_ext.checkpoint import (
    FeedForwardContract,
    HyperConnectionContract,
    ModelConfig,
    NormContract,
    ResidualContract,
)
from trtllm_ext.checkpoint.weights import ATTENTION_NORMS, feed_forward_norm_names
from trtllm_ext.errors import ConfigError
from trtllm_ext.graph import Module, Tensor
from trtllm_ext.layers import (
    FeedForward,
    GatedFeedForward,
    GivenContribution,
    HyperConnections,
    LayerNorm,
    LayerScale,
    MixtureOfExperts,
    ParallelSublayers,
    Residual,
    RmsNorm,
    ScalarGate,
    SelfAttention,
)
from trtllm_ext.parallel import Mapping


def norm_from_contract(
    norm: NormContract | None,
    hidden_size: int,
    dtype: str,
    output_dtype: str | None = None,
    mapping: Mapping | None = None,
) -> Module | None:
    """The norm layer that the contract describes, or None.

    output_dtype: of its result, where not `dtype`. mapping: the ranks over which the axis is split, if it is.
    """
    if norm is None:
        return None
    shards = _shards(mapping)
    if norm.kind == "layer_norm":
        return LayerNorm(
            hidden_size,
            eps=norm.eps,
            elementwise_affine=norm.weight,
            bias=norm.bias,
            dtype=dtype,
            weight_offset=norm.weight_offset,
            output_dtype=output_dtype,
            **shards,
        )
    return RmsNorm(
        hidden_size,
        eps=norm.eps,
        elementwise_affine=norm.weight,
        dtype=dtype,
        weight_offset=norm.weight_offset,
        rounding=norm.rounding,
        output_dtype=output_dtype,
        **shards,
    )


def feed_forward_from_contract(
    form: FeedForwardContract, config: ModelConfig, sequence_parallel: bool = False
) -> Module:
    """The feed-forward sublayer that the contract describes, one or a mixture of experts: the shards of a rank."""
    shards = {**_shards(config.mapping), "sequence_parallel": sequence_parallel}
    hidden, ffn, dtype = config.hidden_size, config.intermediate_size, config.dtype
    if form.mixture is not None:
        return MixtureOfExperts(
            hidden,
            ffn,
            form.activation,
            num_experts=form.mixture.num_experts,
            top_k=form.mixture.top_k,
            weights=form.mixture.weights,
            gated=form.gated,
            bias=form.fc_bias,
            proj_bias=form.proj_bias,
            router_bias=form.mixture.router_bias,
            clamp=form.clamp,
            gate_offset=form.gate_offset,
            shared_expert_intermediate_size=form.mixture.shared_expert_intermediate_size,
            shared_expert_gate=form.mixture.shared_expert_gate,
            dtype=dtype,
            **shards,
        )
    inner_norm = norm_from_contract(form.inner_norm, ffn, dtype, mapping=config.mapping)
    if not form.gated:
        return FeedForward(
            *(hidden, ffn, form.activation, form.fc_bias, dtype),
            proj_bias=form.proj_bias,
            inner_norm=inner_norm,
            **shards,
        )
    return GatedFeedForward(
        *(hidden, ffn, form.activation, form.fc_bias, dtype),
        proj_bias=form.proj_bias,
        inner_norm=inner_norm,
        clamp=form.clamp,
        gate_offset=form.gate_offset,
        **shards,
    )


class TransformerLayer(Module):
    """Attention, where the contract has it, and feed-forward, each in its residual block.

    Sublayers, norms and what else has weights are children under the checkpoint's names; the blocks only hold on to
    them. Over several ranks the sublayers are split; norms, gates and connections are whole on each.
    sequence_parallel: what goes in and comes out are this rank's tokens only (packed ones, without attention of its
        own).
    Raises ConfigError for sequence_parallel with attention.
    """

    def __init__(self, config: ModelConfig, sequence_parallel: bool = False) -> None:
        super().__init__()
        contract = config.contract
        if sequence_parallel and contract.attention is not None:
            raise ConfigError(
                "sequence_parallel deals packed tokens out to the ranks; this layer's attention is on a padded batch "
                "and needs whole sentences."
            )
        is_dealt = sequence_parallel and config.mapping.tp_size > 1
        self._token_group = config.mapping.tp_group if is_dealt else None
        attention, form = contract.attention, contract.feed_forward
        self._attention: tuple[Residual, ...] = ()
        if attention is not None:
            self.attention: Module = SelfAttention(
                config.hidden_size,
                config.num_attention_heads,
                config.head_size,
                bias=attention.qkv_bias,
                dense_bias=attention.dense_bias,
                dtype=config.dtype,
                **_shards(config.mapping),
            )
            block = self._block("attention", self.attention, attention.residual, ATTENTION_NORMS, config)
            self._attention = (block,)
        self._is_parallel = form.residual.parallel != "none" and contract.attention_input
        if contract.attention_input:
            self.attention = GivenContribution()
            if not self._is_parallel:
                clamp = form.residual.clamp == "float16"
                block = Residual(self.attention, clamp=clamp, token_group=self._token_group)
                self._attention = (block,)
        self.mlp = feed_forward_from_contract(form, config, sequence_parallel)
        # Beside a given contribution it makes no difference which norm that was computed from.
        sublayer: Module = self.mlp
        if self._is_parallel:
            sublayer = ParallelSublayers(self.attention, self.mlp, token_group=self._token_group)
        names = feed_forward_norm_names(form.residual)
        self._feed_forward = (self._block("mlp", sublayer, form.residual, names, config),)

    def _block(
        self,
        name: str,
        sublayer: Module,
        residual: ResidualContract,
        norm_names: tuple[str, str],
        config: ModelConfig,
    ) -> Residual:
        wide = residual.stream_dtype != "model" and residual.stream_dtype != config.dtype
        # A norm of the stream gives the next layer's stream; any other is within the branch.
        output_dtype = residual.stream_dtype if wide and residual.placement == "post" else None
        norm = norm_from_contract(residual.norm, config.hidden_size, config.dtype, output_dtype)
        post_norm = norm_from_contract(residual.post_norm, config.hidden_size, config.dtype)
        gate = _gate(residual, config)
        connections = _connections(residual.hyper_connections, config)
        children = zip(
            (*norm_names, f"{name}_scale", f"{name}_connections"),
            (norm, post_norm, gate, connections),
            strict=True,
        )
        for child, module in children:
            if module is not None:
                setattr(self, child, module)
        return Residual(
            sublayer,
            norm,
            "pre" if residual.placement == "none" else residual.placement,
            post_norm,
            residual.scale,
            skip_scale=residual.skip_scale,
            gate=gate,
            stream_dtype=residual.stream_dtype if wide else None,
            dtype=config.dtype if wide else None,
            clamp=residual.clamp == "float16",
            connections=connections,
            token_group=self._token_group,
        )

    def forward(self, hidden_states: Tensor, *attention_arguments: Tensor) -> Tensor:
        """hidden_states: (..., hidden_size), or (..., num_streams, hidden_size) with hyper-connections.

        attention_arguments: what attention takes beside them, its mask; or the contribution given in its place.
        """
        for block in self._attention:
            hidden_states = block(hidden_states, *attention_arguments)
        for block in self._feed_forward:
            hidden_states = block(hidden_states, *(attention_arguments if self._is_parallel else ()))
        return hidden_states


def _shards(mapping: Mapping | None) -> dict[str, Any]:
    """A layer's arguments for its ranks; over a single one there are none to name."""
    if mapping is None or mapping.tp_size == 1:
        return {}
    return {"tp_group": mapping.tp_group, "tp_size": mapping.tp_size}


def _gate(residual: ResidualContract, config: ModelConfig) -> Module | None:
    if residual.gate == "none":
        return None
    if residual.gate == "channel":
        return LayerScale(config.hidden_size, config.dtype)
    return ScalarGate(tanh=residual.gate == "tanh", dtype=config.dtype)


def _connections(contract: HyperConnectionContract | None, config: ModelConfig) -> Module | None:
    if contract is None:
        return None
    return HyperConnections(
        config.hidden_size,
        contract.num_streams,
        contract.kind,
        contract.eps,
        contract.sinkhorn_iterations,
        config.dtype,
        norm=contract.norm,
    )
