"""Hyper-connections, one token at a time, in the letters of arXiv 2409.19606 and 2512.24880."""

from __future__ import annotations

from typing import Any

import numpy as np

from trtllm_ext.verify.formulas.feed_forward import Array, Function, Weights, sigmoid
from trtllm_ext.verify.formulas.norms import layer_norm, rms_norm


def static_matrix(w: Weights) -> Array:
    """HC, (n + 1, n + 1): (0, B) above (A_m, A_r)."""
    n = len(w["static_beta"])
    matrix = np.zeros((n + 1, n + 1))
    matrix[0, 1:] = w["static_beta"]
    matrix[1:] = w["static_alpha"]
    return matrix


def dynamic_matrix(h: Array, w: Weights, norm: str, eps: float) -> Array:
    """HC(H) = HC + s tanh(norm(H) W), with s and W of beta in row 0 and of alpha below."""
    if norm == "layer_norm":
        normed = layer_norm(h, w["norm_weight"], w["norm_bias"], eps)
    else:
        normed = rms_norm(h, w["norm_weight"], eps)
    matrix = static_matrix(w)
    matrix[0, 1:] += w["beta_scale"] * np.tanh(normed @ w["dynamic_beta"][0])
    matrix[1:] += w["alpha_scale"] * np.tanh(normed @ w["dynamic_alpha"].T)
    return matrix


def sinkhorn_knopp(matrix: Array, iterations: int) -> Array:
    """M(t) = T_r(T_c(M(t-1))) from M(0) = exp(matrix)."""
    m: Array = np.exp(matrix)
    for _ in range(iterations):
        m = m / m.sum(0, keepdims=True)
        m = m / m.sum(1, keepdims=True)
    return m


def manifold_matrices(h: Array, w: Weights, eps: float, iterations: int) -> tuple[Array, Array, Array]:
    """H_pre (n), H_post (n), H_res (n, n)."""
    x = rms_norm(h.reshape(-1), 1.0, eps)
    pre, post, res = (
        w[f"{name}_scale"] * (w[f"{name}_weight"] @ x) + w[f"{name}_bias"].reshape(-1)
        for name in ("pre", "post", "mixing")
    )
    return sigmoid(pre), 2 * sigmoid(post), sinkhorn_knopp(res.reshape(len(h), len(h)), iterations)


def connect(
    streams: Array, w: Weights, kind: str, *, eps: Any, iterations: int = 0, norm: str = "layer_norm"
) -> tuple[Array, Array, Array]:
    """x (..., d), mixed (..., n, d), beta (..., n, 1) of streams (..., n, d)."""
    x, mixed = np.empty((*streams.shape[:-2], streams.shape[-1])), np.empty(streams.shape)
    beta = np.empty((*streams.shape[:-1], 1))
    for token in np.ndindex(streams.shape[:-2]):
        h = streams[token]
        if kind == "manifold":
            pre, post, res = manifold_matrices(h, w, eps, iterations)
            x[token], mixed[token], beta[token] = pre @ h, res @ h, post[:, None]
        else:
            hc = static_matrix(w) if kind == "static" else dynamic_matrix(h, w, norm, eps)
            x[token], mixed[token], beta[token] = hc[1:, 0] @ h, hc[1:, 1:].T @ h, hc[0, 1:, None]
    return x, mixed, beta


def connected_residual(streams: Array, sublayer: Function, w: Weights, kind: str, **options: Any) -> Array:
    """The streams after one residual block around `sublayer`, which maps (..., d) to (..., d)."""
    x, mixed, beta = connect(streams, w, kind, **options)
    return mixed + beta * sublayer(x)[..., None, :]
