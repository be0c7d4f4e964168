"""Multi-head self-attention (Vaswani et al. 2017, sections 3.2.1 and 3.2.2)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from trtllm_ext.verify.formulas.feed_forward import Array, Weights, linear, softmax


def self_attention(x: Array, weights: Weights, heads: int, keep: Any = None, prefix: str = "") -> Array:
    """softmax(q k^T / sqrt(head size)) v for each head, heads joined, then `dense`.

    x: (batch, seq, hidden); keep: bool (batch, seq), False for padding. Rows of qkv: q, then k, then v. A sentence
    of nothing but padding attends to all of it, so that it has a value.
    """
    qkv = linear(x, weights, f"{prefix}qkv")
    inner = qkv.shape[-1] // 3
    size = inner // heads
    joined = np.zeros((*x.shape[:2], inner))
    if keep is not None:
        keep = keep | ~keep.any(-1, keepdims=True)
    for head in range(heads):
        q, k, v = (qkv[..., part * inner + head * size :][..., :size] for part in range(3))
        scores = q @ k.transpose(0, 2, 1) / math.sqrt(size)
        if keep is not None:
            scores = np.where(keep[:, None, :], scores, -np.inf)
        joined[..., head * size : (head + 1) * size] = softmax(scores) @ v
    return linear(joined, weights, f"{prefix}dense")
