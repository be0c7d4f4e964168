"""Position-wise feed-forward sublayers (Vaswani et al. 2017, section 3.3; Shazeer 2020 for the gated ones)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Function = Callable[[Array], Array]
Weights = Mapping[str, Array]


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), for large -x too."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1.0 + small)


def softmax(x: Array) -> Array:
    """exp(x) / sum(exp(x)) over the last axis."""
    shifted = np.exp(x - x.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def gelu_erf(x: Array) -> Array:
    """x Phi(x) with the normal distribution's Phi (Hendrycks, Gimpel 2016)."""
    return x / 2 * (1 + np.vectorize(math.erf, otypes=[np.float64])(x / math.sqrt(2)))


# By the contract's names. gelu_tanh is Hendrycks and Gimpel's approximation, quick_gelu their other one (CLIP's);
# squared_relu is So et al. 2021, arXiv 2109.08668.
ACTIVATION: dict[str, Function] = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu_erf": gelu_erf,
    "gelu_tanh": lambda x: x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "quick_gelu": lambda x: x * sigmoid(1.702 * x),
    "silu": lambda x: x * sigmoid(x),
    "squared_relu": lambda x: np.maximum(x, 0) ** 2,
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "identity": lambda x: x,
}


def linear(x: Array, weights: Weights, prefix: str) -> Array:
    """x W^T + b. weights: `<prefix>.weight` (out_features, in_features), `<prefix>.bias` where there is one."""
    return x @ weights[f"{prefix}.weight"].T + weights.get(f"{prefix}.bias", 0.0)


def feed_forward(
    x: Array, weights: Weights, activation: str, prefix: str = "", *, inner_norm: Function | None = None
) -> Array:
    """proj(inner_norm(act(fc(x)))). prefix: of the weights' names, with its dot."""
    inner = ACTIVATION[activation](linear(x, weights, f"{prefix}fc"))
    return linear(inner if inner_norm is None else inner_norm(inner), weights, f"{prefix}proj")


def gated_feed_forward(
    x: Array,
    weights: Weights,
    activation: str,
    prefix: str = "",
    *,
    clamp: float = np.inf,
    gate_offset: float = 0.0,
    inner_norm: Function | None = None,
) -> Array:
    """proj(inner_norm(act(min(fc(x), c)) * (min(max(gate(x), -c), c) + o))): c and o are GPT-OSS's."""
    fc = np.minimum(linear(x, weights, f"{prefix}fc"), clamp)
    gate = np.clip(linear(x, weights, f"{prefix}gate"), -clamp, clamp) + gate_offset
    inner = ACTIVATION[activation](fc) * gate
    return linear(inner if inner_norm is None else inner_norm(inner), weights, f"{prefix}proj")
