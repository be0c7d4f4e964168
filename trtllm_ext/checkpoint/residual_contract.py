"""How a sublayer joins the residual stream, as data: norms, factors, and several streams in place of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trtllm_ext.errors import ConfigError

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
    norm, eps: what the streams pass before the matrices are computed from them. `norm` is the dynamic form's choice;
        the manifold form's is an RMS norm without a weight, and `norm` is 'layer_norm' there. The static form
        computes nothing from the streams: `norm` is 'layer_norm' and eps null.
    The network's input enters every stream; its output is the sum of all.
    """

    kind: Literal["static", "dynamic", "manifold"]
    num_streams: int
    eps: float | None
    sinkhorn_iterations: int = 0
    norm: Literal["layer_norm", "rms_norm"] = "layer_norm"

    def __post_init__(self) -> None:
        if self.num_streams < 1:
            raise ConfigError(f"num_streams={self.num_streams} must be at least 1.")
        if self.kind == "static" and self.eps is not None:
            raise ConfigError(
                f"eps={self.eps} with kind='static': this form has no norm; set it to null (None)."
            )
        if self.kind != "static" and (self.eps is None or not self.eps > 0):
            raise ConfigError(f"eps={self.eps} must be above 0.")
        if self.kind != "dynamic" and self.norm != "layer_norm":
            raise ConfigError(
                f"norm={self.norm!r} with kind={self.kind!r}: only the dynamic form has a choice of norm; leave "
                "'layer_norm'."
            )
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
        each (GPT-NeoX). 'none': F reads the stream that attention has written to. Where there is no attention_input
        it only tells what the model was: without attention's part the sums are the same.
    stream_dtype: the type of the stream, 'model' for the model's own; F always computes in the model's.
    clamp: 'float16' brings a float16 sum that left the type's range back into it, as T5 does; see Residual. On a
        stream of another type it has no effect, in T5 as here, so that one contract serves a model in all types.
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
