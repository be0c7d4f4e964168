"""Mixture of experts against the formula in which only the chosen experts are computed."""

import numpy as np
import pytest
from sampling import thinned
from small_mixture import EXPERTS, FFN, HIDDEN, TOKENS, expected, layer_of, margins, tokens
from sublayer_formulas import DTYPES, assert_close, linear, run_module, set_random

from trtllm_ext.checkpoint import ACTIVATIONS
from trtllm_ext.errors import ConfigError

BUDGET_S = 8

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


@pytest.mark.parametrize(
    ("case", "dtype"),
    [(case, "float32") for case in CASES]
    + thinned([(case, dtype) for case in IN_EVERY_TYPE for dtype in ("float16", "bfloat16")], every=3),
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
        ("float16", (1, HIDDEN)),
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
        ({"tp_size": 3}, r"^ffn_hidden_size=\d+ does not split over tp_size=3"),
        ({"tp_size": 2, "tp_group": [0]}, r"^tp_group=\[0\] does not name tp_size=2 different ranks"),
        ({"tp_size": 2}, r"^tp_size=2 without a tp_group: the ranks' shares would not be added"),
        ({"tp_size": 2, "sequence_parallel": True}, r"^tp_size=2 without a tp_group"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ConfigError, match=message):
        layer_of(**{"top_k": 2, **arguments})
