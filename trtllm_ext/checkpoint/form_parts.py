"""Forms that many models share, as contracts from the few values in which they differ."""

from __future__ import annotations

from typing import Any

from trtllm_ext.checkpoint.contract import FeedForwardContract, NormContract, ResidualContract


def layer_norm(
    eps: float, *, bias: bool = True, weight: bool = True, weight_offset: float = 0.0
) -> NormContract:
    """PyTorch's LayerNorm: rounded once, at the end. Without a weight there is no bias either."""
    return NormContract(
        kind="layer_norm", eps=eps, bias=bias and weight, weight=weight, weight_offset=weight_offset
    )


def llama_norm(eps: float) -> NormContract:
    """An RMS norm that is rounded to the model's type before the product with the weight."""
    return NormContract(kind="rms_norm", eps=eps, bias=False, rounding="before_weight")


def rms_norm(eps: float, *, weight_offset: float = 0.0) -> NormContract:
    """An RMS norm that is rounded once, after the product with the weight."""
    return NormContract(kind="rms_norm", eps=eps, bias=False, weight_offset=weight_offset)


def residual(norm: NormContract | None, **changes: Any) -> ResidualContract:
    """x + F(norm(x)), with fields of ResidualContract changed."""
    return ResidualContract(**{"placement": "pre", "norm": norm, "post_norm": None, **changes})


def plain_form(activation: str, residual: ResidualContract, *, bias: bool = True) -> FeedForwardContract:
    """proj(act(fc(x)))."""
    return FeedForwardContract(
        gated=False, activation=activation, fc_bias=bias, proj_bias=bias, residual=residual
    )


def gated_form(
    activation: str, residual: ResidualContract, *, bias: bool = False, **changes: Any
) -> FeedForwardContract:
    """proj(act(fc(x)) * gate(x)), with fields of FeedForwardContract changed."""
    fields = {"gated": True, "activation": activation, "fc_bias": bias, "proj_bias": bias, **changes}
    return FeedForwardContract(residual=residual, **fields)
