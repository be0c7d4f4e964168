"""Layers from which sublayers and whole models are made. Names and weight layouts are TensorRT-LLM's."""

from trtllm_ext.layers.activation import activate
from trtllm_ext.layers.attention import SelfAttention, additive_padding_mask
from trtllm_ext.layers.embedding import Embedding
from trtllm_ext.layers.feed_forward import FeedForward, GatedFeedForward
from trtllm_ext.layers.hyper_connections import HyperConnections, expand_streams, sum_streams
from trtllm_ext.layers.linear import ColumnLinear, Linear, RowLinear
from trtllm_ext.layers.mixture_of_experts import MixtureOfExperts
from trtllm_ext.layers.normalization import LayerNorm, RmsNorm
from trtllm_ext.layers.residual import TAP_POINTS, GivenContribution, ParallelSublayers, Residual
from trtllm_ext.layers.scale import LayerScale, ScalarGate

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
