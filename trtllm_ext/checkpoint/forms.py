"""Feed-forward sublayers of known models, by name: where a contract of one's own begins.

Sizes in them (experts, streams, a shared expert's width) are small ones: `dataclasses.replace` gives others.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from trtllm_ext.checkpoint.contract import (
    FeedForwardContract,
    HyperConnectionContract,
    MixtureContract,
    NormContract,
    ResidualContract,
)


def _rms(eps: float, **changes: Any) -> NormContract:
    return NormContract(kind="rms_norm", eps=eps, bias=False, **changes)


def _form(
    activation: str, gated: bool, bias: bool, residual: ResidualContract, **more: Any
) -> FeedForwardContract:
    return FeedForwardContract(
        activation=activation, gated=gated, fc_bias=bias, proj_bias=bias, residual=residual, **more
    )


def _residual(norm: NormContract | None, placement: Any = "pre", **more: Any) -> ResidualContract:
    return ResidualContract(**{"placement": placement, "norm": norm, "post_norm": None, **more})


def _streams(kind: Any, **more: Any) -> FeedForwardContract:
    eps = None if kind == "static" else 1e-6
    connections = HyperConnectionContract(kind=kind, num_streams=4, eps=eps, **more)
    return replace(_LLAMA, residual=_residual(_BEFORE, hyper_connections=connections))


_LAYER = NormContract(kind="layer_norm", eps=1e-5, bias=True)
_NO_BIAS = replace(_LAYER, bias=False)
_BEFORE = _rms(1e-5, rounding="before_weight")
_ONE_PLUS = _rms(1e-6, weight_offset=1.0)
_LLAMA = _form("silu", True, False, _residual(_BEFORE))

FORMS: dict[str, FeedForwardContract] = {
    # Vaswani et al. 2017.
    "relu_post_norm": _form("relu", False, True, _residual(_LAYER, "post")),
    "bert": _form("gelu_erf", False, True, _residual(replace(_LAYER, eps=1e-12), "post")),
    "gpt2": _form("gelu_tanh", False, True, _residual(_LAYER)),
    "llama_swiglu": _LLAMA,
    # ModernBERT.
    "geglu_erf": _form("gelu_erf", True, False, _residual(_NO_BIAS)),
    # OLMo, the first one.
    "norm_without_weights": _form("silu", True, False, _residual(replace(_NO_BIAS, weight=False))),
    # Gemma, the first one.
    "geglu_tanh": _form("gelu_tanh", True, False, _residual(_ONE_PLUS)),
    # Shazeer 2020, arXiv 2002.05202, off T5's norm.
    "reglu": _form("relu", True, False, _residual(_rms(1e-6, rounding="before_weight"))),
    # Nemotron; So et al. 2021, arXiv 2109.08668.
    "squared_relu": _form("squared_relu", False, False, _residual(replace(_LAYER, weight_offset=1.0))),
    # CLIP.
    "quick_gelu": _form("quick_gelu", False, True, _residual(_LAYER)),
    "gpt_oss_clamped": _form(
        *("quick_gelu", True, True, _residual(_rms(1e-5))),
        clamp=7.0,
        gate_offset=1.0,
        mixture=MixtureContract(num_experts=8, top_k=4, weights="renormalized", router_bias=True),
    ),
    # NormFormer: Shleifer et al. 2021, arXiv 2110.09456.
    "inner_norm": _form("gelu_erf", False, True, _residual(_LAYER), inner_norm=_LAYER),
    # Mixtral.
    "mixture_renormalized": replace(
        _LLAMA, mixture=MixtureContract(num_experts=8, top_k=2, weights="renormalized")
    ),
    # Qwen2-MoE.
    "mixture_softmax_shared": replace(
        _LLAMA,
        residual=_residual(_rms(1e-6, rounding="before_weight")),
        mixture=MixtureContract(
            num_experts=8,
            top_k=4,
            weights="softmax",
            shared_expert_intermediate_size=64,
            shared_expert_gate=True,
        ),
    ),
    "olmo2_branch": _form("silu", True, False, _residual(_rms(1e-6), "branch")),
    "gemma2_sandwich": _form("gelu_tanh", True, False, _residual(_ONE_PLUS, "sandwich", post_norm=_ONE_PLUS)),
    "gptj_parallel": _form("gelu_tanh", False, True, _residual(_LAYER, parallel="shared_norm")),
    "cohere_parallel": _form("silu", True, False, _residual(_NO_BIAS, parallel="shared_norm")),
    "neox_parallel_two_norms": _form("gelu_erf", False, True, _residual(_LAYER, parallel="separate_norms")),
    "granite_scaled": _form("silu", True, False, _residual(_BEFORE, scale=0.22)),
    # Wang et al. 2022, arXiv 2203.00555: alpha = (2 layers)^(1/4) where there is a decoder alone, here of 24 layers.
    "deepnorm": _form("relu", False, True, _residual(_LAYER, "post", skip_scale=48**0.25)),
    # DINOv2; Touvron et al. 2021, arXiv 2103.17239.
    "layer_scale": _form("gelu_erf", False, True, _residual(replace(_LAYER, eps=1e-6), gate="channel")),
    # Bachlechner et al. 2020, arXiv 2003.04887.
    "rezero": _form("relu", False, True, _residual(None, "none", gate="scalar")),
    # The layers of Llama 3.2 that look at images.
    "tanh_gate": _form("silu", True, False, _residual(_BEFORE, gate="tanh")),
    # Llama's layer with the sums kept in float32.
    "float32_stream": replace(_LLAMA, residual=_residual(_BEFORE, stream_dtype="float32")),
    "t5_clamped": _form(
        "relu", False, False, _residual(_rms(1e-6, rounding="before_weight"), clamp="float16")
    ),
    # Llama's layer on four streams: arXiv 2409.19606, and 2512.24880 for the manifold's.
    "hyper_static": _streams("static"),
    "hyper_dynamic": _streams("dynamic"),
    "hyper_manifold": _streams("manifold", sinkhorn_iterations=20),
}
