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

CONTRACT_VERSION = 1

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
    "none": "x + scale F(x)",
    "pre": "x + scale F(norm(x))",
    "post": "norm(x + scale F(x))",
    "branch": "x + scale norm(F(x))",
    "sandwich": "x + scale post_norm(F(norm(x)))",
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
    """A normalisation over the last axis.

    layer_norm: (x - mean) / sqrt(variance + eps) * weight (+ bias), the biased variance.
    rms_norm: x / sqrt(mean(x^2) + eps) in float32, rounded to the model's type, then * weight.
    """

    kind: Literal["layer_norm", "rms_norm"]
    eps: float
    bias: bool

    def __post_init__(self) -> None:
        if not self.eps > 0:
            raise ConfigError(f"eps={self.eps} must be above 0.")
        if self.kind == "rms_norm" and self.bias:
            raise ConfigError("an rms_norm has no bias; set bias to false.")


@dataclass(frozen=True, kw_only=True)
class ResidualContract:
    """How a sublayer F joins the residual stream: see PLACEMENTS."""

    placement: Placement
    norm: NormContract | None
    post_norm: NormContract | None
    scale: float

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


@dataclass(frozen=True, kw_only=True)
class FeedForwardContract:
    """proj(act(fc(x))), or proj(act(fc(x)) * gate(x)) when gated; `bias` holds for all of its matrices."""

    gated: bool
    activation: str
    bias: bool
    residual: ResidualContract

    def __post_init__(self) -> None:
        check_activation(self.activation)


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
    """vocab[input_ids] + position[0..seq) (+ token[token_type_ids]), then `norm`."""

    position: Literal["learned_absolute"]
    token_type: bool
    norm: NormContract | None


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

    A part that is null is absent: the input is then packed hidden states, the output the residual stream.
    """

    version: int
    embedding: EmbeddingContract | None
    attention: AttentionContract | None
    feed_forward: FeedForwardContract
    final_norm: NormContract | None
    pooling: PoolingContract | None

    def __post_init__(self) -> None:
        if self.version != CONTRACT_VERSION:
            raise ConfigError(
                f"contract version {self.version} is not known; this version reads version {CONTRACT_VERSION}. "
                "Convert the model again, or use the release that wrote the checkpoint."
            )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: object) -> Contract:
        """Read a contract from its JSON form; raises ConfigError naming whatever is unknown or missing."""
        if (
            isinstance(data, dict)
            and isinstance(data.get("version"), int)
            and data["version"] != CONTRACT_VERSION
        ):
            # A contract of another version has other fields: say that first.
            raise ConfigError(
                f"contract version {data['version']} is not known; this version reads version "
                f"{CONTRACT_VERSION}. Convert the model again, or use the release that wrote the checkpoint."
            )
        return parse(cls, data, "contract")
