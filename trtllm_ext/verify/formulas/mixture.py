"""A mixture of experts (Shazeer et al. 2017, arXiv 1701.06538), token by token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from trtllm_ext.verify.formulas.feed_forward import Array, Weights, linear, sigmoid, softmax


def mixture_of_experts(
    x: Array, weights: Weights, expert: Callable[..., Array], top_k: int, renormalized: bool = False
) -> Array:
    """The sum over a token's top_k experts of weight * expert(x), and a shared expert where there is one.

    Only the chosen experts are computed. expert: (gated_)feed_forward with its form bound.
    """
    stacked = {name: value for name, value in weights.items() if name.startswith(("fc.", "gate.", "proj."))}
    probabilities = softmax(linear(x, weights, "router"))
    y = np.zeros_like(x)
    for token in np.ndindex(x.shape[:-1]):
        chosen = np.argsort(-probabilities[token], kind="stable")[:top_k]
        share = probabilities[token][chosen]
        for number, factor in zip(chosen, share / share.sum() if renormalized else share, strict=True):
            y[token] += factor * expert(x[token], {name: value[number] for name, value in stacked.items()})
    if "shared_expert.fc.weight" in weights:
        shared = expert(x, weights, prefix="shared_expert.")
        gated = "shared_expert_gate.weight" in weights
        y += sigmoid(linear(x, weights, "shared_expert_gate")) * shared if gated else shared
    return y


def routing_margin(x: Array, weights: Weights, top_k: int) -> Any:
    """How far each token's last chosen expert lies before the first one not chosen, as a share of what was summed.

    A rounding of x by more than this share may send the token to another expert. Shape: x's without the last axis.
    """
    scores = linear(x, weights, "router")
    if scores.shape[-1] <= top_k:
        return np.full(scores.shape[:-1], np.inf)
    ordered = -np.sort(-scores, axis=-1)
    summed = np.abs(x) @ np.abs(weights["router.weight"]).T
    return (ordered[..., top_k - 1] - ordered[..., top_k]) / np.maximum(summed.max(-1), 1e-300)
