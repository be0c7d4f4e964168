"""The sublayers' formulas in float64 numpy, written from the papers, and a way to run a module as an engine."""

import math
from collections import OrderedDict

import ml_dtypes
import numpy as np

import trtllm_ext as tx

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}

# Largest error against float64, as a share of the reference's largest magnitude. Weights and inputs are rounded to
# the type before, so what remains is the engine's: float32 sums in another order; a few roundings of a narrow type,
# each at most 2^-11 (float16) or 2^-8 (bfloat16), one at the edge of every layer. Twice the worst seen.
TOLERANCE = {"float32": 1e-6, "float16": 2e-3, "bfloat16": 1.6e-2}


def assert_close(got, reference, dtype, factor=1.0):
    assert got.shape == reference.shape
    error = np.abs(got.astype(np.float64) - reference).max()
    limit = factor * TOLERANCE[dtype] * np.abs(reference).max()
    assert error <= limit, f"{dtype}: largest error {error:.3g}, allowed {limit:.3g}"


def run_module(module, inputs, dtype="float32"):
    """Build module(*inputs) and run it: each input has its array's type, and its first dimension is dynamic.

    The result has the type that the module gives. dtype: the builder's precision.
    """
    with tx.Session.from_serialized_engine(engine_of_module(module, inputs, dtype)) as session:
        return session.run(inputs)["y"]


def engine_of_module(module, inputs, dtype="float32"):
    """The engine that `run_module` runs; its output is `y`."""
    builder = tx.Builder()
    network = builder.create_network()
    with tx.net_guard(network):
        tensors = []
        for name, value in inputs.items():
            ranges = OrderedDict(rows=[[1, 8, 64]])
            ranges.update((f"{name}{i}", [size]) for i, size in enumerate(value.shape[1:]))
            shape = [-1, *value.shape[1:]]
            tensors.append(tx.Tensor(name=name, dtype=value.dtype.name, shape=shape, dim_range=ranges))
        module(*tensors).mark_output("y")
    return builder.build_engine(network, builder.create_builder_config(precision=dtype))


def set_random(module, dtype, seed=0):
    """Give every parameter random values of `dtype`; returns them as float64 by name."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, parameter in module.named_parameters():
        scale = 1 / math.sqrt(parameter.shape[-1]) if len(parameter.shape) > 1 else 0.3
        values = rng.normal(scale=scale, size=parameter.shape)
        if name.endswith("weight") and len(parameter.shape) == 1:
            values += 1  # a norm's
        parameter.value = values.astype(DTYPES[dtype])
        weights[name] = parameter.raw_value.astype(np.float64)
    return weights


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gelu_erf(x):
    return x / 2 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


ACTIVATION = {
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


def layer_norm(x, weight, bias, eps):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * weight + bias


def rms_norm(x, weight, eps):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def linear(x, weights, prefix):
    return x @ weights[f"{prefix}.weight"].T + weights.get(f"{prefix}.bias", 0.0)


def feed_forward(x, weights, activation, prefix="", *, inner_norm=None):
    inner = ACTIVATION[activation](linear(x, weights, f"{prefix}fc"))
    return linear(inner if inner_norm is None else inner_norm(inner), weights, f"{prefix}proj")


def gated_feed_forward(x, weights, activation, prefix="", *, clamp=np.inf, gate_offset=0.0, inner_norm=None):
    fc = np.minimum(linear(x, weights, f"{prefix}fc"), clamp)
    gate = np.clip(linear(x, weights, f"{prefix}gate"), -clamp, clamp) + gate_offset
    inner = ACTIVATION[activation](fc) * gate
    return linear(inner if inner_norm is None else inner_norm(inner), weights, f"{prefix}proj")


def mixture_of_experts(x, weights, expert, top_k, renormalized=False):
    """Only the chosen experts are computed, token by token. expert: one of the two above, with its form bound."""
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


def residual(x, sublayer, norm, placement, post_norm=None, scale=1.0, *, skip_scale=1.0, gate=1.0):
    """gate: what multiplies the contribution beside `scale`, a number or one a channel."""
    factor = scale * gate
    match placement:
        case "none":
            return skip_scale * x + factor * sublayer(x)
        case "pre":
            return skip_scale * x + factor * sublayer(norm(x))
        case "post":
            return norm(skip_scale * x + factor * sublayer(x))
        case "branch":
            return skip_scale * x + factor * norm(sublayer(x))
        case "sandwich":
            return skip_scale * x + factor * post_norm(sublayer(norm(x)))
    raise ValueError(placement)


def softmax(x):
    shifted = np.exp(x - x.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def self_attention(x, weights, heads, keep=None, prefix=""):
    """x: (batch, seq, hidden); keep: bool (batch, seq), False for padding. One head at a time."""
    qkv = linear(x, weights, f"{prefix}qkv")
    inner = qkv.shape[-1] // 3
    size = inner // heads
    joined = np.zeros((*x.shape[:2], inner))
    for head in range(heads):
        q, k, v = (qkv[..., part * inner + head * size :][..., :size] for part in range(3))
        scores = q @ k.transpose(0, 2, 1) / math.sqrt(size)
        if keep is not None:
            scores = np.where(keep[:, None, :], scores, -np.inf)
        joined[..., head * size : (head + 1) * size] = softmax(scores) @ v
    return linear(joined, weights, f"{prefix}dense")
