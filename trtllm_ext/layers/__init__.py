"""Layers from which sublayers and whole models are made. Names and weight layouts are TensorRT-LLM's."""

from typing import NoReturn

from trtllm_ext.layers.attention import SelfAttention, additive_padding_mask
from trtllm_ext.layers.embedding import Embedding
from trtllm_ext.layers.feed_forward import FeedForward, GatedFeedForward
from trtllm_ext.layers.hyper_connections import HyperConnections, expand_streams, sum_streams
from trtllm_ext.layers.linear import ColumnLinear, Linear, RowLinear
from trtllm_ext.layers.mixture_of_experts import MixtureOfExperts
from trtllm_ext.layers.normalization import LayerNorm, RmsNorm
from trtllm_ext.layers.residual import TAP_POINTS, GivenContribution, ParallelSublayers, Residual
from trtllm_ext.layers.scale import LayerScale, ScalarGate
from trtllm_ext.plugin.formulas import activate

# Layers of TensorRT-LLM's, and what is here instead.
_TENSORRT_LLMS = {
    "MLP": "FeedForward",
    "GatedMLP": "GatedFeedForward",
    "FusedGatedMLP": "GatedFeedForward",
    "MOE": "MixtureOfExperts",
    "SharedMoE": "MixtureOfExperts",
    "Attention": "SelfAttention, which is an encoder's: without a KV cache",
    "BertAttention": "SelfAttention",
}

__all__ = [
    "TAP_POINTS",
    "ColumnLinear",
    "Embedding",
    "FeedForward",
    "GatedFeedForward",
    "GivenContribution",
    "HyperConnections",
    "LayerNorm",
    "LayerScale",
    "Linear",
    "MixtureOfExperts",
    "ParallelSublayers",
    "Residual",
    "RmsNorm",
    "RowLinear",
    "ScalarGate",
    "SelfAttention",
    "activate",
    "additive_padding_mask",
    "expand_streams",
    "sum_streams",
]


def __getattr__(name: str) -> NoReturn:
    """ImportError for a layer of TensorRT-LLM's: an AttributeError's text would be lost in `from ... import`."""
    if name in _TENSORRT_LLMS:
        raise ImportError(
            f"{__name__} has no {name}, which is TensorRT-LLM's. Use {_TENSORRT_LLMS[name]}; the project's "
            f"docs/migration.md says how they differ."
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
