"""The exact maths of a model, as data: what config.json holds under "contract".

Models are built from the contract alone. Every field is written out and every field is required, so that a
form which this version does not know is refused by name instead of being approximated.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from trtllm_ext.checkpoint.activations import ACTIVATIONS, check_activation
from trtllm_ext.checkpoint.fields import parse
from trtllm_ext.checkpoint.residual_contract import (
    GATES,
    PLACEMENTS,
    Gate,
    HyperConnectionContract,
    NormContract,
    Placement,
    ResidualContract,
    StreamDtype,
)
from trtllm_ext.errors import ConfigError

CONTRACT_VERSION = 2

# The whole vocabulary, whichever file it is written in.
__all__ = [
    "ACTIVATIONS",
    "CONTRACT_VERSION",
    "GATES",
    "PLACEMENTS",
    "AttentionContract",
    "Contract",
    "EmbeddingContract",
    "FeedForwardContract",
    "Gate",
    "HyperConnectionContract",
    "MixtureContract",
    "NormContract",
    "Placement",
    "PoolingContract",
    "ResidualContract",
    "StreamDtype",
    "check_activation",
]


@dataclass(frozen=True, kw_only=True)
class MixtureContract:
    """A mixture of experts in place of one feed-forward: sum over the chosen experts of weight * expert(x).

    p = softmax(router(x)) over all experts, in float32; the top_k largest are chosen.
    weights: 'softmax' takes p as it is; 'renormalized' divides it by the sum over the chosen ones, which is also the
        softmax over the chosen experts' router values alone.
    shared_expert_intermediate_size: width of an expert that every token passes, added; null where there is none.
    shared_expert_gate: its output is multiplied by sigmoid(shared_expert_gate(x)).
    """

    num_experts: int
    top_k: int
    weights: Literal["softmax", "renormalized"]
    router_bias: bool = False
    shared_expert_intermediate_size: int | None = None
    shared_expert_gate: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= self.num_experts:
            raise ConfigError(f"top_k={self.top_k} must lie between 1 and num_experts={self.num_experts}.")
        width = self.shared_expert_intermediate_size
        if width is not None and width < 1:
            raise ConfigError(f"shared_expert_intermediate_size={width} must be at least 1, or null.")
        if self.shared_expert_gate and width is None:
            raise ConfigError("shared_expert_gate needs a shared_expert_intermediate_size.")


@dataclass(frozen=True, kw_only=True)
class FeedForwardContract:
    """proj(inner_norm(act(fc(x)))), or proj(inner_norm(act(fc(x)) * gate(x))) when gated.

    fc_bias: of `fc`, and of `gate`. proj_bias: of `proj`.
    clamp, gate_offset: act(min(fc(x), clamp)) * (min(max(gate(x), -clamp), clamp) + gate_offset), as GPT-OSS has it.
    inner_norm: over the feed-forward width, where there is one.
    mixture: experts of this form in place of one; they have no inner_norm.
    """

    gated: bool
    activation: str
    fc_bias: bool
    proj_bias: bool
    residual: ResidualContract
    clamp: float | None = None
    gate_offset: float = 0.0
    inner_norm: NormContract | None = None
    mixture: MixtureContract | None = None

    def __post_init__(self) -> None:
        check_activation(self.activation)
        if self.clamp is not None and not self.clamp > 0:
            raise ConfigError(f"clamp={self.clamp} must be above 0, or null.")
        if not self.gated and (self.clamp is not None or self.gate_offset):
            raise ConfigError("clamp and gate_offset belong to a gated feed-forward; set gated to true.")
        if self.mixture is not None and self.inner_norm is not None:
            raise ConfigError("experts of a mixture have no inner_norm; set it to null.")


@dataclass(frozen=True, kw_only=True)
class AttentionContract:
    """Multi-head self-attention over all tokens that are not padding.

    softmax(q k^T * head_size^-0.5) v, heads concatenated, then `dense`. Rows of qkv: q, then k, then v.
    """

    qkv_bias: bool
    dense_bias: bool
    scale: Literal["inverse_sqrt_head_size"]
    mask: Literal["padding"]
    residual: ResidualContract


@dataclass(frozen=True, kw_only=True)
class EmbeddingContract:
    """vocab[input_ids] + position[offset..offset + seq) (+ token[token_type_ids]), then `norm`.

    position_offset: rows at the start of the position table that no token uses (RoBERTa has 2).
    """

    position: Literal["learned_absolute"]
    token_type: bool
    norm: NormContract | None
    position_offset: int = 0

    def __post_init__(self) -> None:
        if self.position_offset < 0:
            raise ConfigError(f"position_offset={self.position_offset} must be at least 0.")


@dataclass(frozen=True, kw_only=True)
class PoolingContract:
    """How tokens become one vector, in float32.

    mean: sum of the vectors of all tokens that are not padding / max(their number, 1e-9).
    cls: the first token's vector. pooler: tanh(dense(first token's vector)). none: no such output.
    normalize: divide by max(Euclidean length, 1e-12).
    max_seq_length: sentences are cut to that many tokens, the tokenizer's special ones included, before they go in;
        null when the model says nothing. The network does not cut: whoever makes token ids does.
    """

    kind: Literal["none", "mean", "cls", "pooler"]
    normalize: bool
    max_seq_length: int | None

    def __post_init__(self) -> None:
        if self.max_seq_length is not None and self.max_seq_length < 1:
            raise ConfigError(f"max_seq_length={self.max_seq_length} must be at least 1, or null.")
        if self.kind == "none" and self.normalize:
            raise ConfigError("pooling kind 'none' leaves nothing to normalize; set normalize to false.")


@dataclass(frozen=True, kw_only=True)
class Contract:
    """A network: embedding, num_hidden_layers times (attention, feed_forward), final_norm, pooling.

    A part that is null is absent: without embedding the input is packed hidden states, without pooling the output is
    the residual stream.
    attention_input: in place of an attention of its own, each layer adds a given contribution to the stream: what the
        model's attention sublayer would add, computed elsewhere.
    """

    version: int
    embedding: EmbeddingContract | None
    attention: AttentionContract | None
    feed_forward: FeedForwardContract
    final_norm: NormContract | None
    pooling: PoolingContract | None
    attention_input: bool = False

    def __post_init__(self) -> None:
        if self.version != CONTRACT_VERSION:
            raise ConfigError(
                f"contract version {self.version} is not known; this version reads version {CONTRACT_VERSION}. "
                "Convert the model again, or use the release that wrote the checkpoint."
            )
        self._check_attention()

    def _check_attention(self) -> None:
        residual = self.feed_forward.residual
        if not self.attention_input:
            return
        if self.attention is not None:
            raise ConfigError("attention_input stands in place of attention; leave one of them out.")
        if residual.placement == "post" or residual.skip_scale != 1.0 or residual.hyper_connections:
            raise ConfigError(
                "attention_input adds to the stream, which does not say what attention does to it where placement is "
                "'post', skip_scale is not 1 or there are hyper_connections. Leave attention_input out."
            )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: object) -> Contract:
        """Read a contract from its JSON form; raises ConfigError naming whatever is unknown or missing."""
        if (
            isinstance(data, dict)
            and type(data.get("version")) is int
            and data["version"] != CONTRACT_VERSION
        ):
            # A contract of another version has other fields: say that first.
            raise ConfigError(
                f"contract version {data['version']} is not known; this version reads version "
                f"{CONTRACT_VERSION}. Convert the model again, or use the release that wrote the checkpoint."
            )
        return parse(cls, data, "contract")
