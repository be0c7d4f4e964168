"""Mixture of experts: an expert computes the tokens that chose it, maybe none, and disturbs no others."""

import numpy as np
import pytest
from sampling import covered
from small_mixture import EXPERTS, TOKENS, engine_for_up_to_64_tokens, expected, layer_of, tokens
from sublayer_formulas import DTYPES, assert_close, linear, run_module, set_random

import trtllm_ext as tx
from trtllm_ext.layers.mixture_of_experts import ExpertLinear

BUDGET_S = 4


@covered(load_mode=["prepack", "mapped"], settings=[{}, {"use_refit": True}, {"deterministic": True}])
def test_one_engine_for_every_number_of_tokens(settings, load_mode):
    layer = layer_of(top_k=2, bias=True)
    weights = set_random(layer, "float32")
    engine = engine_for_up_to_64_tokens(layer, **settings)
    with tx.Session.from_serialized_engine(engine, load_mode) as session:
        for count in (64, 1, 2, 33):
            x = tokens("float32", weights, 2, count)
            reference = expected(x, weights, top_k=2)
            assert session.set_shapes({"x": x.shape})[0].shape == x.shape  # before a run
            assert_close(session.run({"x": x})["y"], reference, "float32")


def test_an_expert_computes_the_tokens_that_chose_it_and_no_others(monkeypatch):
    layer = layer_of(top_k=2)
    weights = set_random(layer, "float32")
    product = ExpertLinear.forward

    def watched(module, x, expert):
        if module is layer.fc:
            x.mark_output(f"expert{expert}")
        return product(module, x, expert)

    monkeypatch.setattr(ExpertLinear, "forward", watched)
    x = tokens("float32", weights, 2, 20)
    with tx.Session.from_serialized_engine(engine_for_up_to_64_tokens(layer)) as session:
        outputs = session.run({"x": x})
    chosen = np.argsort(-linear(x.astype(np.float64), weights, "router"))[:, :2]
    for expert in range(EXPERTS):
        np.testing.assert_array_equal(outputs[f"expert{expert}"], x[(chosen == expert).any(-1)])


@pytest.mark.parametrize(
    ("arguments", "dtype"),
    [
        ({"top_k": 1}, "float32"),
        ({"top_k": 2, "bias": True}, "float32"),
        ({"top_k": 2, "bias": True}, "float16"),
        ({"top_k": 1, "gated": False}, "bfloat16"),
    ],
)
def test_experts_that_nobody_chooses(arguments, dtype):
    layer = layer_of(dtype, router_bias=True, **arguments)
    set_random(layer, dtype)
    layer.router.bias.value = np.array([-100, 50, -100, 100]).astype(DTYPES[dtype])
    weights = {name: p.raw_value.astype(np.float64) for name, p in layer.named_parameters()}
    x = tokens(dtype, weights, arguments["top_k"])
    assert_close(run_module(layer, {"x": x}, dtype), expected(x, weights, **arguments), dtype)


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


@pytest.mark.parametrize(
    ("top_k", "weights_of"), [(1, "softmax"), (2, "softmax"), (2, "renormalized"), (EXPERTS, "renormalized")]
)
def test_tokens_that_are_not_numbers_stay_alone(top_k, weights_of):
    layer = layer_of(top_k=top_k, weights=weights_of)
    weights = set_random(layer, "float32")
    x = tokens("float32", weights, top_k)
    x[2, 5], x[3], x[4, 1], x[4, 2] = np.inf, np.nan, np.inf, -np.inf
    got, others = run_module(layer, {"x": x}), ~np.isin(np.arange(TOKENS), (2, 3, 4))
    assert np.isnan(got[3]).all()
    assert not np.isfinite(got[[2, 4]]).any()
    reference = expected(x[others], weights, top_k=top_k, weights=weights_of)
    assert_close(got[others], reference, "float32")
