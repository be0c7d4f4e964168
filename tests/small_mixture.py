"""A small mixture of experts, its reference, and tokens whose experts no rounding changes."""

from collections import OrderedDict
from functools import partial

import numpy as np
from sublayer_formulas import DTYPES, feed_forward, gated_feed_forward, linear, mixture_of_experts

import trtllm_ext as tx
from trtllm_ext.layers import MixtureOfExperts

HIDDEN, FFN, EXPERTS, TOKENS = 24, 40, 4, 7

# What float32 may do to a router's value is far below; no engine may choose differently from the formula.
MARGIN = 1e-3


def layer_of(dtype="float32", activation="silu", **arguments):
    return MixtureOfExperts(HIDDEN, FFN, activation, num_experts=EXPERTS, dtype=dtype, **arguments)


def expected(
    x,
    parameters,
    activation="silu",
    *,
    top_k,
    weights="softmax",
    gated=True,
    clamp=np.inf,
    gate_offset=0.0,
    **_,  # what the parameters tell by being there
):
    expert = partial(feed_forward, activation=activation)
    if gated:
        expert = partial(gated_feed_forward, activation=activation, clamp=clamp, gate_offset=gate_offset)
    return mixture_of_experts(x.astype(np.float64), parameters, expert, top_k, weights == "renormalized")


def margins(x, weights, top_k):
    """How far the last chosen expert is in front of the first one that is not, for each token."""
    scores = np.sort(linear(x.astype(np.float64), weights, "router"), -1)[..., ::-1]
    return np.full(len(x), np.inf) if top_k == EXPERTS else scores[:, top_k - 1] - scores[:, top_k]


def tokens(dtype, weights, top_k, count=TOKENS):
    """Random tokens whose choice of experts no rounding turns over."""
    x = np.random.default_rng(9).normal(size=(4 * count, HIDDEN)).astype(DTYPES[dtype])
    x = x[np.argsort(-margins(x, weights, top_k), kind="stable")[:count]]
    assert margins(x, weights, top_k).min() > MARGIN
    return x


def engine_for_up_to_64_tokens(layer, **settings):
    builder = tx.Builder()
    network = builder.create_network()
    network.set_named_parameters(layer.named_parameters())
    with tx.net_guard(network):
        ranges = OrderedDict(tokens=[[1, 8, 64]], hidden=[HIDDEN])
        x = tx.Tensor(name="x", dtype="float32", shape=[-1, HIDDEN], dim_range=ranges)
        layer(x).mark_output("y", "float32")
    return builder.build_engine(network, builder.create_builder_config(precision="float32", **settings))
