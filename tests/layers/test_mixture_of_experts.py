"""Mixture of experts against the formula in which only the chosen experts are computed."""

from collections import OrderedDict
from functools import partial

import numpy as np
import pytest
from sublayer_formulas import (
    DTYPES,
    assert_close,
    feed_forward,
    gated_feed_forward,
    linear,
    mixture_of_experts,
    run_module,
    set_random,
)

import trtllm_ext as tx
from trtllm_ext.checkpoint import ACTIVATIONS
from trtllm_ext.errors import ConfigError
from trtllm_ext.layers import MixtureOfExperts

BUDGET_S = 8

HIDDEN, FFN, EXPERTS, TOKENS = 24, 40, 4, 7

# What float32 may do to a router's value is far below; no engine may choose differently from the formula.
MARGIN = 1e-3

GPT_OSS = {"bias": True, "clamp": 0.5, "gate_offset": 1.0}
CASES = {
    "top 1": {"top_k": 1},
    "top 1 renormalized": {"top_k": 1, "weights": "renormalized"},
    "top 2": {"top_k": 2},
    "top 2 renormalized": {"top_k": 2, "weights": "renormalized"},
    "all": {"top_k": EXPERTS},
    "all renormalized": {"top_k": EXPERTS, "weights": "renormalized"},
    "router bias": {"top_k": 2, "router_bias": True},
    "biases": {"top_k": 2, "bias": True},
    "fc bias only": {"top_k": 2, "bias": True, "proj_bias": False},
    "proj bias only": {"top_k": 2, "bias": False, "proj_bias": True},
    "plain": {"top_k": 2, "gated": False},
    "plain with biases": {"top_k": 3, "gated": False, "bias": True, "weights": "renormalized"},
    "clamp and offset": {"top_k": 2, "router_bias": True, "weights": "renormalized", **GPT_OSS},
    "shared expert": {"top_k": 2, "shared_expert_intermediate_size": 56},
    "plain shared expert": {"top_k": 2, "gated": False, "shared_expert_intermediate_size": 56},
    "gated shared expert": {"top_k": 2, "shared_expert_intermediate_size": 56, "shared_expert_gate": True},
    "clamped shared expert": {"top_k": 2, "shared_expert_intermediate_size": 56, **GPT_OSS},
}
IN_EVERY_TYPE = ("top 2", "biases", "plain with biases", "clamp and offset", "gated shared expert")


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


@pytest.mark.parametrize(
    ("case", "dtype"),
    [(case, "float32") for case in CASES]
    + [(case, dtype) for case in IN_EVERY_TYPE for dtype in DTYPES if dtype != "float32"],
)
def test_forms(case, dtype):
    layer = layer_of(dtype, **CASES[case])
    weights = set_random(layer, dtype)
    x = tokens(dtype, weights, CASES[case]["top_k"])
    assert_close(run_module(layer, {"x": x}, dtype), expected(x, weights, **CASES[case]), dtype)


@pytest.mark.parametrize(
    ("activation", "gated"), [*((name, True) for name in ACTIVATIONS), ("relu", False), ("gelu_erf", False)]
)
def test_activations(activation, gated):
    layer = layer_of(activation=activation, top_k=2, gated=gated)
    weights = set_random(layer, "float32")
    x = tokens("float32", weights, 2)
    assert_close(
        run_module(layer, {"x": x}), expected(x, weights, activation, top_k=2, gated=gated), "float32"
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_choice_that_the_type_itself_could_not_make(dtype):
    """Tokens whose deciding values are equal, or the other way round, once they are rounded to the type."""
    layer = layer_of(dtype, top_k=2)
    weights = set_random(layer, dtype)
    x = np.random.default_rng(9).normal(size=(20000, HIDDEN)).astype(DTYPES[dtype])
    margin = margins(x, weights, 2)
    close = np.flatnonzero((margin > 2e-5) & (margin < 2e-4))[:TOKENS]
    x, scores = x[close], linear(x[close].astype(np.float64), weights, "router")
    rounded = np.argsort(-scores.astype(DTYPES[dtype]).astype(np.float64), kind="stable")[:, :2]
    exact = np.argsort(-scores, kind="stable")[:, :2]
    assert (np.sort(rounded) != np.sort(exact)).any()
    assert_close(run_module(layer, {"x": x}, dtype), expected(x, weights, top_k=2), dtype)


def test_of_equal_experts_the_first_is_chosen():
    layer = layer_of(top_k=1)
    weights = set_random(layer, "float32")
    router = np.zeros((EXPERTS, HIDDEN), np.float32)
    router[[1, 3]] = 1.0
    layer.router.weight.value, weights["router.weight"] = router, router.astype(np.float64)
    x = np.abs(np.random.default_rng(9).normal(size=(TOKENS, HIDDEN))).astype(np.float32)
    assert_close(run_module(layer, {"x": x}), expected(x, weights, top_k=1), "float32")


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        ("float32", (1, HIDDEN)),
        ("bfloat16", (1, HIDDEN)),
        ("float32", (1, 1, HIDDEN)),
        ("float16", (2, 3, HIDDEN)),
        ("float32", (2, 3, HIDDEN)),
    ],
)
def test_one_token_and_batches_of_sentences(dtype, shape):
    arguments = {"top_k": 2, "shared_expert_intermediate_size": 16, "shared_expert_gate": True, "bias": True}
    layer = layer_of(dtype, **arguments)
    weights = set_random(layer, dtype)
    x = tokens(dtype, weights, 2)[: int(np.prod(shape[:-1]))].reshape(shape)
    assert_close(run_module(layer, {"x": x}, dtype), expected(x, weights, **arguments), dtype)


@pytest.mark.parametrize("use_refit", [False, True])
def test_one_engine_for_every_number_of_tokens(use_refit):
    layer = layer_of(top_k=2, bias=True)
    weights = set_random(layer, "float32")
    builder = tx.Builder()
    network = builder.create_network()
    with tx.net_guard(network):
        ranges = OrderedDict(tokens=[[1, 8, 64]], hidden=[HIDDEN])
        x = tx.Tensor(name="x", dtype="float32", shape=[-1, HIDDEN], dim_range=ranges)
        layer(x).mark_output("y", "float32")
    config = builder.create_builder_config(precision="float32", use_refit=use_refit)
    with tx.Session.from_serialized_engine(builder.build_engine(network, config)) as session:
        for count in (64, 1, 2, 33):
            x = tokens("float32", weights, 2, count)
            reference = expected(x, weights, top_k=2)
            assert_close(session.run({"x": x})["y"], reference, "float32")


@pytest.mark.parametrize(
    ("dtype", "value"), [("float32", np.inf), ("float32", np.nan), ("float16", np.inf), ("bfloat16", np.nan)]
)
def test_an_expert_that_is_not_chosen_adds_nothing_whatever_it_computes(dtype, value):
    layer = layer_of(dtype, top_k=2)
    weights = set_random(layer, dtype)
    x = tokens(dtype, weights, 2, 20)
    broken = layer.proj.weight.raw_value.copy()
    broken[1, 0, 0] = value
    layer.proj.weight.value = broken
    took = (np.argsort(-linear(x.astype(np.float64), weights, "router"))[:, :2] == 1).any(-1)
    assert took.any() and not took.all()
    got = run_module(layer, {"x": x}, dtype).astype(np.float64)
    assert not np.isfinite(got[took, 0]).any()
    assert_close(got[~took], expected(x[~took], weights, top_k=2), dtype)


def test_a_token_that_is_not_a_number_stays_alone():
    layer = layer_of(top_k=2)
    weights = set_random(layer, "float32")
    x = tokens("float32", weights, 2)
    x[3] = np.nan
    got, others = run_module(layer, {"x": x}), np.arange(TOKENS) != 3
    assert np.isnan(got[3]).all()
    assert_close(got[others], expected(x[others], weights, top_k=2), "float32")


def exchanged(weights):
    """Weights wrong in one way each."""
    swapped = {"fc.weight": weights["gate.weight"], "gate.weight": weights["fc.weight"]}
    yield "fc and gate", {**weights, **swapped}
    for part in ("fc", "gate", "proj", "router"):
        yield f"order of {part}", {**weights, f"{part}.weight": weights[f"{part}.weight"][::-1]}


def test_wrong_orders_are_noticed():
    layer = layer_of(top_k=2)
    weights = set_random(layer, "float32")
    x = tokens("float32", weights, 2)
    got = run_module(layer, {"x": x})
    assert_close(got, expected(x, weights, top_k=2), "float32")
    for what, wrong in exchanged(weights):
        with pytest.raises(AssertionError, match="largest error"):
            assert_close(got, expected(x, wrong, top_k=2), "bfloat16")
            pytest.fail(what)
    for arguments in ({"top_k": 1}, {"top_k": 3}, {"top_k": 2, "weights": "renormalized"}):
        with pytest.raises(AssertionError, match="largest error"):
            assert_close(got, expected(x, weights, **arguments), "bfloat16")


def test_names_and_shapes_of_weights():
    layer = layer_of(
        top_k=2, bias=True, router_bias=True, shared_expert_intermediate_size=12, shared_expert_gate=True
    )
    assert {name: parameter.shape for name, parameter in layer.named_parameters()} == {
        "router.weight": (EXPERTS, HIDDEN),
        "router.bias": (EXPERTS,),
        "fc.weight": (EXPERTS, FFN, HIDDEN),
        "fc.bias": (EXPERTS, FFN),
        "gate.weight": (EXPERTS, FFN, HIDDEN),
        "gate.bias": (EXPERTS, FFN),
        "proj.weight": (EXPERTS, HIDDEN, FFN),
        "proj.bias": (EXPERTS, HIDDEN),
        "shared_expert.fc.weight": (12, HIDDEN),
        "shared_expert.gate.weight": (12, HIDDEN),
        "shared_expert.proj.weight": (HIDDEN, 12),
        "shared_expert_gate.weight": (1, HIDDEN),
    }
    plain = [name for name, _ in layer_of(top_k=2, gated=False).named_parameters()]
    assert plain == ["router.weight", "fc.weight", "proj.weight"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"top_k": 6}, r"^top_k=6 must lie between 1 and num_experts=4"),
        ({"top_k": 0}, r"^top_k=0 with tp_size=1: both must be at least 1"),
        ({"top_k": 2.0}, r"^top_k=2.0 is not a whole number"),
        ({"activation": "silo"}, r"^activation 'silo' is not known. Did you mean silu"),
        ({"activation": "gelu"}, r"^activation 'gelu' is ambiguous"),
        ({"weights": "renormalised"}, r"^weights='renormalised' is not known. Did you mean renormalized\?"),
        ({"clamp": 0.0}, r"^clamp=0.0 must be above 0"),
        ({"gated": False, "clamp": 7.0}, r"^clamp and gate_offset belong to gated experts"),
        ({"gated": False, "gate_offset": 1.0}, r"^clamp and gate_offset belong to gated experts"),
        ({"shared_expert_gate": True}, r"^shared_expert_gate needs a shared_expert_intermediate_size"),
        ({"shared_expert_intermediate_size": 0}, r"^shared_expert_intermediate_size=0 must be at least 1"),
        ({"tp_size": 2}, r"^MixtureOfExperts with tp_size=2.* Use tp_size=1"),
        ({"tp_size": 2, "tp_group": [0, 1]}, r"tp_group=\[0, 1\].* Use tp_size=1"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ConfigError, match=message):
        layer_of(**{"top_k": 2, **arguments})
