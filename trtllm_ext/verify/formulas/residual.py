"""How a sublayer joins the residual stream (He et al. 2016; Xiong et al. 2020, arXiv 2002.04745, for the norms)."""

from __future__ import annotations

from typing import Any

import numpy as np

from trtllm_ext.verify.formulas.feed_forward import Array, Function

_FLOAT16_MAX = 65504.0
# Half a step above the largest float16: what is at least this rounds to infinity.
_FLOAT16_OVERFLOW = 65520.0
_T5_MARGIN = 1000.0


def contribution(
    x: Array,
    sublayer: Function,
    norm: Function | None,
    placement: str,
    post_norm: Function | None = None,
    factor: Any = 1.0,
) -> Array:
    """What is added to the stream x. factor: scale times gate."""
    match placement:
        case "none" | "post":
            return factor * sublayer(x)
        case "pre":
            assert norm is not None
            return factor * sublayer(norm(x))
        case "branch":
            assert norm is not None
            return factor * norm(sublayer(x))
        case "sandwich":
            assert norm is not None and post_norm is not None
            return factor * post_norm(sublayer(norm(x)))
    raise ValueError(placement)


def residual(
    x: Array,
    sublayer: Function,
    norm: Function | None,
    placement: str,
    post_norm: Function | None = None,
    scale: float = 1.0,
    *,
    skip_scale: float = 1.0,
    gate: Any = 1.0,
) -> Array:
    """The stream after the block. gate: what multiplies the contribution beside `scale`, a number or one a channel."""
    added = skip_scale * x + contribution(x, sublayer, norm, placement, post_norm, scale * gate)
    if placement != "post":
        return added
    assert norm is not None
    return norm(added)


def clamped_to_float16(x: Array) -> Array:
    """A float16 sum as T5 brings it back: within +-65504, or +-64504 rounded where any element has overflowed."""
    overflows = bool((np.abs(x) >= _FLOAT16_OVERFLOW).any())
    limit = float(np.float16(_FLOAT16_MAX - _T5_MARGIN)) if overflows else _FLOAT16_MAX
    return np.clip(x, -limit, limit)
