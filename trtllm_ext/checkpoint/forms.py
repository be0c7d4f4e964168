"""Feed-forward sublayers of known models, by name: where a contract of one's own begins.

Sizes in them (experts, streams, a shared expert's width) are small ones: `dataclasses.replace` gives others.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from trtllm_ext.checkpoint.contract import FeedForwardContract, HyperConnectionContract, MixtureContract
from trtllm_ext.checkpoint.form_parts import (
    gated_form,
    layer_norm,
    llama_norm,
    plain_form,
    residual,
    rms_norm,
)


def _streams(kind: Any, **more: Any) -> FeedForwardContract:
    eps = None if kind == "static" else 1e-6
    connections = HyperConnectionContract(kind=kind, num_streams=4, eps=eps, **more)
    return replace(_LLAMA, residual=residual(_BEFORE, hyper_connections=connections))


_LAYER = layer_norm(1e-5)
_NO_BIAS = layer_norm(1e-5, bias=False)
_BEFORE = llama_norm(1e-5)
_ONE_PLUS = rms_norm(1e-6, weight_offset=1.0)
_LLAMA = gated_form("silu", residual(_BEFORE))

FORMS: dict[str, FeedForwardContract] = {
    # Vaswani et al. 2017.
    "relu_post_norm": plain_form("relu", residual(_LAYER, placement="post")),
    "bert": plain_form("gelu_erf", residual(layer_norm(1e-12), placement="post")),
    "gpt2": plain_form("gelu_tanh", residual(_LAYER)),
    "llama_swiglu": _LLAMA,
    # ModernBERT.
    "geglu_erf": gated_form("gelu_erf", residual(_NO_BIAS)),
    # OLMo, the first one.
    "norm_without_weights": gated_form("silu", residual(layer_norm(1e-5, weight=False))),
    # Gemma, the first one.
    "geglu_tanh": gated_form("gelu_tanh", residual(_ONE_PLUS)),
    # Shazeer 2020, arXiv 2002.05202, off T5's norm.
    "reglu": gated_form("relu", residual(llama_norm(1e-6))),
    # Nemotron; So et al. 2021, arXiv 2109.08668.
    "squared_relu": plain_form("squared_relu", residual(layer_norm(1e-5, weight_offset=1.0)), bias=False),
    # CLIP.
    "quick_gelu": plain_form("quick_gelu", residual(_LAYER)),
    "gpt_oss_clamped": gated_form(
        "quick_gelu",
        residual(rms_norm(1e-5)),
        bias=True,
        clamp=7.0,
        gate_offset=1.0,
        mixture=MixtureContract(num_experts=8, top_k=4, weights="renormalized", router_bias=True),
    ),
    # NormFormer: Shleifer et al. 2021, arXiv 2110.09456.
    "inner_norm": replace(plain_form("gelu_erf", residual(_LAYER)), inner_norm=_LAYER),
    # Mixtral.
    "mixture_renormalized": replace(
        _LLAMA, mixture=MixtureContract(num_experts=8, top_k=2, weights="renormalized")
    ),
    # Qwen2-MoE.
    "mixture_softmax_shared": replace(
        _LLAMA,
        residual=residual(llama_norm(1e-6)),
        mixture=MixtureContract(
            num_experts=8,
            top_k=4,
            weights="softmax",
            shared_expert_intermediate_size=64,
            shared_expert_gate=True,
        ),
    ),
    "olmo2_branch": gated_form("silu", residual(rms_norm(1e-6), placement="branch")),
    "gemma2_sandwich": gated_form(
        "gelu_tanh", residual(_ONE_PLUS, placement="sandwich", post_norm=_ONE_PLUS)
    ),
    "gptj_parallel": plain_form("gelu_tanh", residual(_LAYER, parallel="shared_norm")),
    "cohere_parallel": gated_form("silu", residual(_NO_BIAS, parallel="shared_norm")),
    "neox_parallel_two_norms": plain_form("gelu_erf", residual(_LAYER, parallel="separate_norms")),
    "granite_scaled": gated_form("silu", residual(_BEFORE, scale=0.22)),
    # Wang et al. 2022, arXiv 2203.00555: alpha = (2 layers)^(1/4) where there is a decoder alone, here of 24 layers.
    "deepnorm": plain_form("relu", residual(_LAYER, placement="post", skip_scale=48**0.25)),
    # DINOv2; Touvron et al. 2021, arXiv 2103.17239.
    "layer_scale": plain_form("gelu_erf", residual(layer_norm(1e-6), gate="channel")),
    # Bachlechner et al. 2020, arXiv 2003.04887.
    "rezero": plain_form("relu", residual(None, placement="none", gate="scalar")),
    # The layers of Llama 3.2 that look at images.
    "tanh_gate": gated_form("silu", residual(_BEFORE, gate="tanh")),
    # Llama's layer with the sums kept in float32.
    "float32_stream": replace(_LLAMA, residual=residual(_BEFORE, stream_dtype="float32")),
    "t5_clamped": plain_form("relu", residual(llama_norm(1e-6), clamp="float16"), bias=False),
    # Llama's layer on four streams: arXiv 2409.19606, and 2512.24880 for the manifold's.
    "hyper_static": _streams("static"),
    "hyper_dynamic": _streams("dynamic"),
    "hyper_manifold": _streams("manifold", sinkhorn_iterations=20),
}
