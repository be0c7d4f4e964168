"""What a contract means, in NumPy float64 on a checkpoint's weights: the papers' formulas, tap point by tap point.

Written from the papers and nothing else: it shares no code with layers, lowering or oracle, so that a network that was
written down wrongly is found as well as an engine that computes it wrongly. `points_of` gives the formulas of a whole
model as points, each of which follows from earlier ones.
"""

from __future__ import annotations

from trtllm_ext.verify.formulas.attention import self_attention
from trtllm_ext.verify.formulas.feed_forward import (
    ACTIVATION,
    feed_forward,
    gated_feed_forward,
    gelu_erf,
    linear,
    sigmoid,
    softmax,
)
from trtllm_ext.verify.formulas.hyper_connections import connect, connected_residual, sinkhorn_knopp
from trtllm_ext.verify.formulas.mixture import mixture_of_experts, routing_margin
from trtllm_ext.verify.formulas.model import points_of
from trtllm_ext.verify.formulas.norms import layer_norm, rms_norm
from trtllm_ext.verify.formulas.points import Evaluation, Point, evaluate
from trtllm_ext.verify.formulas.residual import residual

__all__ = [
    "ACTIVATION",
    "Evaluation",
    "Point",
    "connect",
    "connected_residual",
    "evaluate",
    "feed_forward",
    "gated_feed_forward",
    "gelu_erf",
    "layer_norm",
    "linear",
    "mixture_of_experts",
    "points_of",
    "residual",
    "rms_norm",
    "routing_margin",
    "self_attention",
    "sigmoid",
    "sinkhorn_knopp",
    "softmax",
]
