"""Normalisations: LayerNorm (Ba et al. 2016, arXiv 1607.06450), RMSNorm (Zhang, Sennrich 2019, arXiv 1910.07467)."""

from __future__ import annotations

from typing import Any

import numpy as np

from trtllm_ext.verify.formulas.feed_forward import Array, Function, Weights


def layer_norm(x: Array, weight: Any, bias: Any, eps: float) -> Array:
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last axis, the biased variance."""
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * weight + bias


def rms_norm(x: Array, weight: Any, eps: float) -> Array:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis."""
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def norm(contract: Any, weights: Weights, name: str) -> Function | None:
    """The norm that a NormContract describes, or None. name: of its weights."""
    if contract is None:
        return None
    weight = weights[f"{name}.weight"] + contract.weight_offset if contract.weight else 1.0
    if contract.kind == "rms_norm":
        return lambda x: rms_norm(x, weight, contract.eps)
    return lambda x: layer_norm(x, weight, weights.get(f"{name}.bias", 0.0), contract.eps)
