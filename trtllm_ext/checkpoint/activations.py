"""The activations that a contract may name, and their formulas."""

from __future__ import annotations

from trtllm_ext.errors import ConfigError
from trtllm_ext.suggest import nearest

# name -> formula. Plain 'gelu' is missing on purpose: it means the erf form to Hugging Face and the tanh form to
# TensorRT-LLM, so a converter has to say which one its source means.
ACTIVATIONS: dict[str, str] = {
    "relu": "max(x, 0)",
    "gelu_erf": "x/2 (1 + erf(x / sqrt(2)))",
    "gelu_tanh": "x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))",
    "quick_gelu": "x sigmoid(1.702 x)",
    "silu": "x sigmoid(x)",
    "squared_relu": "max(x, 0)^2",
    "sigmoid": "1 / (1 + exp(-x))",
    "tanh": "tanh(x)",
    "identity": "x",
}

# What others call some of them; only hinted at, so that a contract has one name for each.
_OTHER_NAMES = {
    "relu2": "squared_relu",
    "relu_squared": "squared_relu",
    "swish": "silu",
    "linear": "identity",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python": "gelu_erf",
}


def check_activation(name: object) -> str:
    """`name` if it is one of ACTIVATIONS; raises ConfigError with the nearest ones otherwise."""
    if name == "gelu":
        raise ConfigError(
            "activation 'gelu' is ambiguous: Hugging Face means the erf form by it, TensorRT-LLM the tanh form. "
            "Say 'gelu_erf' or 'gelu_tanh'."
        )
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ConfigError(f"activation {name!r} is not known. {_activation_hint(name)}")
    return name


def _activation_hint(name: object) -> str:
    other = _OTHER_NAMES.get(str(name))
    if other:
        return f"Say {other!r}: {ACTIVATIONS[other]}."
    if str(name).startswith("gelu"):
        # A likeness of names must not choose between two functions.
        return f"Say 'gelu_erf', {ACTIVATIONS['gelu_erf']}, or 'gelu_tanh', {ACTIVATIONS['gelu_tanh']}."
    return nearest(name, ACTIVATIONS)
