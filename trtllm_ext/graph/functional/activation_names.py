"""Activation functions by the names that model configurations use.

TensorRT-LLM's table: every name with "gelu" in it means the tanh form. Our layers have a stricter one of their own
(`checkpoint.contract`), in which a plain "gelu" is refused.
"""

from collections.abc import Callable
from typing import Any

from trtllm_ext.errors import GraphError
from trtllm_ext.graph.functional.activations import (
    gegelu,
    geglu,
    gelu,
    quick_gelu,
    relu,
    sigmoid,
    silu,
    softplus,
    squared_relu,
    swiglu,
    tanh,
)
from trtllm_ext.graph.functional.constants import identity
from trtllm_ext.suggest import nearest

ACT2FN: dict[str, Callable[..., Any]] = {
    "relu": relu,
    "relu2": squared_relu,
    "squared-relu": squared_relu,
    "tanh": tanh,
    "sigmoid": sigmoid,
    "gelu": gelu,
    "gelu_new": gelu,
    "gelu_fast": gelu,
    "gelu_pytorch_tanh": gelu,
    "openai-gelu": gelu,
    "quick_gelu": quick_gelu,
    "geglu": geglu,
    "gegelu": gegelu,
    "identity": identity,
    "silu": silu,
    "softplus": softplus,
    "swiglu": swiglu,
    "fast-swiglu": swiglu,
}

# Gated activations, which halve the last dimension, and the function that each applies to one half.
GATED_ACT_2_ACT = {"swiglu": "silu", "fast-swiglu": "silu", "geglu": "gelu"}


def is_gated_activation(activation: str) -> bool:
    """Whether a name of ACT2FN is that of a gated activation. Raises GraphError for another name."""
    if activation not in ACT2FN:
        raise GraphError(f"activation {activation!r} is not known. {nearest(activation, ACT2FN)}")
    return activation in GATED_ACT_2_ACT


def non_gated_version(activation: str) -> str:
    """The name of the function inside a gated activation; any other name of ACT2FN as it is.

    Raises GraphError for a name that ACT2FN does not have.
    """
    return GATED_ACT_2_ACT[activation] if is_gated_activation(activation) else activation
