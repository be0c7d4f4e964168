"""The exact maths of a model, as data: what config.json holds under "contract".

Models are built from the contract alone. Every field is written out and every field is required, so that a
form which this version does not know is refused by name instead of being approximated.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from trtllm_ext.checkpoint.fields import parse
from trtllm_ext.errors import ConfigError
from trtllm_ext.suggest import nearest

CONTRACT_VERSION = 2

# name -> formula. Plain 'gelu' is missing on purpose: it means the erf form to Hugging Face and the tanh form to
# TensorRT-LLM, so a converter has to say which one its source means.
ACTIVATIONS: dict[str, str] = {
    "relu": "max(x, 0)",
    "gelu_erf": "x/2 (1 + erf(x / sqrt(2)))",
    "gelu_tanh": "x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))",
    "quick_gelu": "x sigmoid(1.702 x)",
    "silu": "x sigmoid(x)",
    "squared_relu": "max(x, 0)^2",
    "sigmoid": "1 / (1 + exp(-x))",
    "tanh": "tanh(x)",
    "identity": "x",
}

# What others call some of them; only hinted at, so that a contract has one name for each.
_OTHER_NAMES = {
    "relu2": "squared_relu",
    "relu_squared": "squared_relu",
    "swish": "silu",
    "linear": "identity",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python": "gelu_erf",
}

Placement = Literal["none", "pre", "post", "branch", "sandwich"]
PLACEMENTS: dict[str, str] = {
    "none": "x + F(x)",
    "pre": "x + F(norm(x))",
    "post": "norm(x + F(x))",
    "branch": "x + norm(F(x))",
    "sandwich": "x + post_norm(F(norm(x)))",
}

# The type of the residual stream.
StreamDtype = Literal["model", "float32"]

# A learned factor g of what joins the stream.
Gate = Literal["none", "scalar", "tanh", "channel"]
GATES: dict[str, str] = {
    "none": "F(x)",
    "scalar": "g F(x), g one number (ReZero)",
    "tanh": "tanh(g) F(x), g one number",
    "channel": "g F(x), g one number a channel (LayerScale)",
}


def check_activation(name: object) -> str:
    """`name` if it is one of ACTIVATIONS; raises ConfigError with the nearest ones otherwise."""
    if name == "gelu":
        raise ConfigError(
            "activation 'gelu' is ambiguous: Hugging Face means the erf form by it, TensorRT-LLM the tanh form. "
            "Say 'gelu_erf' or 'gelu_tanh'."
        )
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ConfigError(f"activation {name!r} is not known. {_activation_hint(name)}")
    return name


def _activation_hint(name: object) -> str:
    other = _OTHER_NAMES.get(str(name))
    if other:
        return f"Say {other!r}: {ACTIVATIONS[other]}."
    if str(name).startswith("gelu"):
        # A likeness of names must not choose between two functions.
        return f"Say 'gelu_erf', {ACTIVATIONS['gelu_erf']}, or 'gelu_tanh', {ACTIVATIONS['gelu_tanh']}."
    return nearest(name, ACTIVATIONS)


@dataclass(frozen=True, kw_only=True)
class NormContract:
    """A normalisation over the last axis, in float32 whatever the model's type.

    layer_norm: (x - mean) / sqrt(variance + eps) * (weight + weight_offset) (+ bias), the biased variance.
    rms_norm: x / sqrt(mean(x^2) + eps) * (weight + weight_offset).
    weight: whether there is one; without it nothing is multiplied (OLMo), and there is no bias either.
    rounding: whether the float32 value is rounded to the model's type before the product with the weight (Llama),
        or once, after it (LayerNorm, Gemma, OLMo 2). The two agree in float32.
    """

    kind: Literal["layer_norm", "rms_norm"]
    eps: float
    bias: bool
    weight: bool = True
    weight_offset: float = 0.0
    rounding: Literal["before_weight", "after_weight"] = "after_weight"
    statistics_dtype: Literal["float32"] = "float32"

    def __post_init__(self) -> None:
        if not self.eps > 0:
            raise ConfigError(f"eps={self.eps} must be above 0.")
        if self.kind == "rms_norm" and self.bias:
            raise ConfigError("an rms_norm has no bias; set bias to false.")
        if not self.weight and (self.bias or self.weight_offset or self.rounding != "after_weight"):
            raise ConfigError(
                "a norm without a weight has no bias, weight_offset or rounding before it: set bias to false, "
                "weight_offset to 0 and rounding to 'after_weight'."
            )
        if self.rounding == "before_weight" and (self.kind != "rms_norm" or self.weight_offset):
            raise ConfigError(
                "rounding='before_weight' is a form of the plain rms_norm; set it to 'after_weight'."
            )


@dataclass(frozen=True, kw_only=True)
class HyperConnectionContract:
    """Several residual streams, mixed before and after a sublayer, in place of the single sum.

    static, dynamic: hyper-connections (Zhu et al. 2024, arXiv 2409.19606), with matrices that are weights, or weights
        plus a part computed from the input.
    manifold: their manifold-constrained form (Xie et al. 2025, arXiv 2512.24880), whose mixing matrix is made doubly
        stochastic by `sinkhorn_iterations` of alternate normalisation; 0 for the other kinds.
    norm, eps: what the streams pass before the matrices are computed from them. The manifold form's norm is an RMS
        norm without a weight, the static form has none: `norm` is the dynamic form's.
    The network's input enters every stream; its output is the sum of all.
    """

    kind: Literal["static", "dynamic", "manifold"]
    num_streams: int
    eps: float
    sinkhorn_iterations: int = 0
    norm: Literal["layer_norm", "rms_norm"] = "layer_norm"

    def __post_init__(self) -> None:
        if self.num_streams < 1:
            raise ConfigError(f"num_streams={self.num_streams} must be at least 1.")
        if not self.eps > 0:
            raise ConfigError(f"eps={self.eps} must be above 0.")
        if (self.sinkhorn_iterations > 0) != (self.kind == "manifold") or self.sinkhorn_iterations < 0:
            raise ConfigError(
                f"sinkhorn_iterations={self.sinkhorn_iterations} with kind={self.kind!r}: the manifold form needs at "
                "least 1, the others have none (0)."
            )


@dataclass(frozen=True, kw_only=True)
class ResidualContract:
    """How a sublayer F joins the residual stream: see PLACEMENTS, where x is the stream.

    scale: factor of what F gives (Granite's residual_multiplier). skip_scale: factor of x (DeepNorm's alpha).
    gate: a learned factor of what F gives; see GATES.
    parallel: F runs beside attention, on the same x, and both join in one sum: off one norm for both (GPT-J), or one
        each (GPT-NeoX). 'none': F reads the stream that attention has written to.
    stream_dtype: the type of the stream, 'model' for the model's own; F always computes in the model's.
    clamp: 'float16' brings a float16 sum that left the type's range back into it, as T5 does; see Residual.
    """

    placement: Placement
    norm: NormContract | None
    post_norm: NormContract | None
    scale: float = 1.0
    skip_scale: float = 1.0
    gate: Gate = "none"
    parallel: Literal["none", "shared_norm", "separate_norms"] = "none"
    stream_dtype: StreamDtype = "model"
    clamp: Literal["none", "float16"] = "none"
    hyper_connections: HyperConnectionContract | None = None

    def __post_init__(self) -> None:
        needs_norm, needs_post = self.placement != "none", self.placement == "sandwich"
        for name, needed, norm in (
            ("norm", needs_norm, self.norm),
            ("post_norm", needs_post, self.post_norm),
        ):
            if needed != (norm is not None):
                raise ConfigError(
                    f"placement={self.placement!r} {'needs' if needed else 'has no'} {name}: "
                    f"{PLACEMENTS[self.placement]}."
                )
        if self.parallel != "none" and (self.placement != "pre" or self.scale != 1.0 or self.gate != "none"):
            raise ConfigError(
                f"parallel={self.parallel!r} is known with placement 'pre', scale 1 and gate 'none' alone: otherwise "
                "it does not say what becomes of attention's part."
            )
        if self.hyper_connections is not None:
            self._check_hyper_connections()

    def _check_hyper_connections(self) -> None:
        if self.placement == "post":
            raise ConfigError(
                "hyper_connections have no single stream to normalise after the sum: use placement 'pre', 'branch', "
                "'sandwich' or 'none'."
            )
        plain = {"skip_scale": 1.0, "parallel": "none", "clamp": "none"}
        for name, value in plain.items():
            if getattr(self, name) != value:
                raise ConfigError(
                    f"{name}={getattr(self, name)!r} has no meaning with hyper_connections; expected {value!r}."
                )


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
