"""Residual: each form against its formula in each type, around any Module, and what does not fit."""

from itertools import product

import numpy as np
import pytest
from sampling import covered
from sublayer_formulas import (
    DTYPES,
    assert_close,
    feed_forward,
    layer_norm,
    residual,
    rms_norm,
    run_module,
    set_random,
)

from trtllm_ext.checkpoint import GATES, PLACEMENTS
from trtllm_ext.errors import ConfigError
from trtllm_ext.graph import Module
from trtllm_ext.layers import (
    FeedForward,
    HyperConnections,
    LayerNorm,
    LayerScale,
    Residual,
    RmsNorm,
    ScalarGate,
)
from trtllm_ext.verify.formulas import connected_residual

BUDGET_S = 8

HIDDEN, FFN, TOKENS = 24, 56, 7
NARROW = ("float16", "bfloat16")


def tokens(dtype, *front):
    x = np.random.default_rng(2).normal(loc=0.5, scale=2.0, size=(*(front or (TOKENS,)), HIDDEN))
    return x.astype(DTYPES[dtype])


def norm_layer(kind, dtype, **more):
    return (
        LayerNorm(HIDDEN, dtype=dtype, **more)
        if kind == "layer_norm"
        else RmsNorm(HIDDEN, dtype=dtype, **more)
    )


def norm_formula(weights, name):
    weight, bias = weights.get(f"{name}.weight"), weights.get(f"{name}.bias")
    if bias is not None:
        return lambda x: layer_norm(x, weight, bias, 1e-5)
    return lambda x: rms_norm(x, weight, 1e-6)


def gate_layer(gate, dtype):
    if gate == "channel":
        return LayerScale(HIDDEN, dtype)
    return None if gate == "none" else ScalarGate(tanh=gate == "tanh", dtype=dtype)


def gate_factor(gate, weights):
    weight = weights.get("gate.weight", 1.0)
    return np.tanh(weight) if gate == "tanh" else weight


def block_of(placement, kind, dtype, *, gate="none", wide=False, **more):
    """A Residual around a feed-forward, with the parts that its placement needs."""
    # A norm of the stream itself keeps the stream's type.
    more_of_norm = {"output_dtype": "float32"} if wide and placement == "post" else {}
    return Residual(
        FeedForward(HIDDEN, FFN, dtype=dtype),
        None if placement == "none" else norm_layer(kind, dtype, **more_of_norm),
        "pre" if placement == "none" else placement,
        norm_layer(kind, dtype) if placement == "sandwich" else None,
        gate=gate_layer(gate, dtype),
        **({"stream_dtype": "float32", "dtype": dtype} if wide else {}),
        **more,
    )


def reference(x, weights, placement, gate="none", **factors):
    return residual(
        x.astype(np.float64),
        lambda x: feed_forward(x, weights, "relu", "sublayer."),
        norm_formula(weights, "norm"),
        placement,
        norm_formula(weights, "post_norm"),
        gate=gate_factor(gate, weights),
        **factors,
    )


@covered(dtype=DTYPES, kind=["layer_norm", "rms_norm"], placement=PLACEMENTS)
def test_each_placement(placement, kind, dtype):
    block = block_of(placement, kind, dtype)
    weights, x = set_random(block, dtype), tokens(dtype)
    expected = reference(x, weights, placement)
    got = run_module(block, {"x": x}, dtype)
    assert got.dtype == DTYPES[dtype]
    assert_close(got, expected, dtype)
    norms = {"none": 0, "sandwich": 2}
    for other in PLACEMENTS:
        if other != placement and norms.get(other, 1) <= norms.get(placement, 1):
            assert np.abs(reference(x, weights, other) - expected).max() > 0.1


def in_turn(dtypes, placement, gate, others=0):
    """One of the types, so that every placement and every gate meets each, without all combinations of the three."""
    return [*dtypes][([*PLACEMENTS].index(placement) + [*GATES].index(gate) + others) % len(dtypes)]


FACTORS = ({}, {"scale": 0.22}, {"skip_scale": 2.6321}, {"scale": -2.0, "skip_scale": 0.3})


# By default the factors take turns.
@pytest.mark.parametrize(
    ("placement", "factors", "gate"),
    [
        pytest.param(
            placement,
            factors,
            gate,
            marks=[] if factors == in_turn(FACTORS, placement, gate) else [pytest.mark.long],
        )
        for placement, factors, gate in product(PLACEMENTS, FACTORS, GATES)
    ],
)
def test_each_placement_with_gate_and_factors(placement, factors, gate):
    dtype = in_turn(DTYPES, placement, gate, len(factors))
    block = block_of(placement, "rms_norm", dtype, gate=gate, **factors)
    weights, x = set_random(block, dtype, seed=1), tokens(dtype)
    assert_close(run_module(block, {"x": x}, dtype), reference(x, weights, placement, gate, **factors), dtype)


@pytest.mark.parametrize("dtype", NARROW)
def test_a_factor_is_not_rounded_to_a_narrow_type(dtype):
    class Nothing(Module):
        def forward(self, x):
            return x * 0.0

    x = tokens(dtype, 40)
    got = run_module(Residual(Nothing(), skip_scale=0.22), {"x": x}, dtype)
    # A narrow number times a float32 one: float64 holds it exactly, so this rounds once.
    once = (x.astype(np.float64) * np.float64(np.float32(0.22))).astype(DTYPES[dtype])
    np.testing.assert_array_equal(got, once)
    assert (got != x * np.asarray(0.22, DTYPES[dtype])).any()


@covered(gate=GATES, placement=PLACEMENTS)
def test_a_float32_stream_through_a_narrow_sublayer(placement, gate):
    dtype = in_turn(NARROW, placement, gate)
    factors = {"scale": 0.22, "skip_scale": 1.7}
    block = block_of(placement, "layer_norm", dtype, gate=gate, wide=True, **factors)
    weights, x = set_random(block, dtype), 100 * tokens("float32")
    got = run_module(block, {"x": x}, dtype)
    assert got.dtype == np.float32
    expected = reference(x, weights, placement, gate, **factors)
    if placement in ("pre", "branch", "sandwich"):
        # What joins the stream is narrow, the stream is not: measured against the contribution, the skip is exact.
        skip = factors["skip_scale"] * x.astype(np.float64)
        assert_close(got - skip, expected - skip, dtype)
        assert np.abs(expected - skip).max() < np.abs(skip).max() / 20
    else:
        assert_close(got, expected, dtype)


@covered(gate=GATES, placement=["none", "pre", "branch", "sandwich"])
def test_hyper_connections_around_each_form(placement, gate):
    dtype = in_turn(DTYPES, placement, gate)
    connections = HyperConnections(HIDDEN, 3, "dynamic", dtype=dtype)
    block = block_of(placement, "rms_norm", dtype, gate=gate, scale=0.22, connections=connections)
    weights, streams = set_random(block, dtype), tokens(dtype, TOKENS, 3)
    own = {name.removeprefix("connections."): value for name, value in weights.items()}

    def contribution(x):
        return reference(x, weights, placement, gate, scale=0.22) - x

    expected = connected_residual(streams.astype(np.float64), contribution, own, "dynamic", eps=1e-5)
    # The coefficients' roundings come on top of the sublayer's.
    assert_close(run_module(block, {"x": streams}, dtype), expected, dtype, factor=2)


class _Call(Module):
    """A block called with its further arguments, by place and by name."""

    def __init__(self, block, *names):
        super().__init__()
        self.block, self.names = block, names

    def forward(self, x, *others):
        count = len(others) - len(self.names)
        return self.block(x, *others[:count], **dict(zip(self.names, others[count:], strict=True)))


def test_further_arguments_go_to_the_sublayer():
    class Product(Module):
        def forward(self, x, factor, offset=None):
            return x * factor + offset

    x, factor, offset = (np.random.default_rng(i).normal(size=(3, 4)).astype(np.float32) for i in range(3))
    got = run_module(_Call(Residual(Product()), "offset"), {"x": x, "factor": factor, "offset": offset})
    np.testing.assert_allclose(got, x + x * factor + offset, rtol=1e-6)


def test_the_clamp_has_no_effect_on_a_float32_stream_through_float16():
    block = block_of("pre", "rms_norm", "float16", wide=True, clamp=True)
    set_random(block, "float16")
    x = np.zeros((1, HIDDEN), np.float32)
    x[0, 0] = 1e6
    assert run_module(block, {"x": x}, "float16")[0, 0] == pytest.approx(1e6, rel=1e-4)


NORM = LayerNorm(4)
FFN4 = FeedForward(4, 8)
STREAMS = HyperConnections(4, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sublayer": len}, "sublayer must be a Module, not a builtin_function"),
        ({"sublayer": None}, "sublayer must be a Module, not a NoneType"),
        ({"norm": len}, "norm must be a Module, not a builtin_function"),
        (
            {"norm": NORM, "post_norm": 1.0, "placement": "sandwich"},
            "post_norm must be a Module, not a float",
        ),
        ({"gate": 0.5}, "gate must be a Module, not a float"),
        ({"connections": 2}, "connections must be a Module, not a int"),
        ({"norm": NORM, "placement": "pree"}, "placement='pree' is not known. Did you mean pre"),
        ({"norm": NORM, "placement": "none"}, "placement='none' is not known"),
        ({"placement": "post"}, r"placement='post' needs a norm: norm\(x \+ F\(x\)\)"),
        ({"placement": "branch"}, "placement='branch' needs a norm"),
        ({"placement": "sandwich", "post_norm": NORM}, "placement='sandwich' needs a norm"),
        ({"norm": NORM, "placement": "sandwich"}, "placement='sandwich' needs a post_norm"),
        ({"norm": NORM, "post_norm": NORM}, "placement='pre' has no use for a post_norm"),
        ({"stream_dtype": "float32"}, "stream_dtype='float32' with dtype=None: give both"),
        ({"dtype": "float16"}, "stream_dtype=None with dtype='float16': give both"),
        (
            {"stream_dtype": "float23", "dtype": "float16"},
            "dtype='float23' is not a weight type. Did you mean float",
        ),
        ({"connections": STREAMS, "placement": "post", "norm": NORM}, "connections mix several streams"),
        ({"connections": STREAMS, "clamp": True}, "connections mix several streams"),
        ({"connections": STREAMS, "skip_scale": 2.0}, "connections mix several streams"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Residual(**{"sublayer": FFN4, **arguments})
