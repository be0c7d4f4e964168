"""Feed-forward sublayers against their formulas, for each activation and each type."""

import numpy as np
import pytest
from sampling import covered
from sublayer_formulas import (
    DTYPES,
    assert_close,
    feed_forward,
    gated_feed_forward,
    layer_norm,
    rms_norm,
    run_module,
    set_random,
)

from trtllm_ext.checkpoint import ACTIVATIONS
from trtllm_ext.errors import ConfigError
from trtllm_ext.layers import FeedForward, GatedFeedForward, LayerNorm, RmsNorm

BUDGET_S = 8

HIDDEN, FFN, TOKENS = 24, 56, 7
FORMULA = {FeedForward: feed_forward, GatedFeedForward: gated_feed_forward}


def tokens(dtype, rows=TOKENS):
    return np.random.default_rng(9).normal(size=(rows, HIDDEN)).astype(DTYPES[dtype])


@covered(dtype=DTYPES, activation=ACTIVATIONS)
def test_feed_forward(activation, dtype):
    layer = FeedForward(HIDDEN, FFN, activation, dtype=dtype)
    weights, x = set_random(layer, dtype), tokens(dtype)
    reference = feed_forward(x.astype(np.float64), weights, activation)
    assert_close(run_module(layer, {"x": x}, dtype), reference, dtype)


@covered(dtype=DTYPES, activation=ACTIVATIONS)
def test_gated_feed_forward(activation, dtype):
    layer = GatedFeedForward(HIDDEN, FFN, activation, dtype=dtype)
    weights, x = set_random(layer, dtype), tokens(dtype)
    reference = gated_feed_forward(x.astype(np.float64), weights, activation)
    assert_close(run_module(layer, {"x": x}, dtype), reference, dtype)


@covered(kind=[FeedForward, GatedFeedForward], rows=[1, 64])
def test_without_biases_one_token_and_many(kind, rows):
    layer = kind(HIDDEN, FFN, "silu", bias=False)
    weights, x = set_random(layer, "float32"), tokens("float32", rows)
    assert not any(name.endswith("bias") for name in weights)
    assert_close(run_module(layer, {"x": x}), FORMULA[kind](x.astype(np.float64), weights, "silu"), "float32")


@pytest.mark.parametrize("kind", [FeedForward, GatedFeedForward])
@pytest.mark.parametrize(("bias", "proj_bias"), [(True, False), (False, True), (True, None), (False, None)])
def test_biases_of_the_two_projections_apart(kind, bias, proj_bias):
    layer = kind(HIDDEN, FFN, "silu", bias=bias, proj_bias=proj_bias)
    weights, x = set_random(layer, "float32"), tokens("float32")
    first = {"fc.bias"} if kind is FeedForward else {"fc.bias", "gate.bias"}
    second = {"proj.bias"} if (bias if proj_bias is None else proj_bias) else set()
    assert {name for name in weights if name.endswith("bias")} == (first if bias else set()) | second
    assert_close(run_module(layer, {"x": x}), FORMULA[kind](x.astype(np.float64), weights, "silu"), "float32")


@covered(dtype=DTYPES, kind=[FeedForward, GatedFeedForward], norm=[LayerNorm, RmsNorm])
def test_a_norm_inside(norm, kind, dtype):
    layer = kind(HIDDEN, FFN, "silu", dtype=dtype, inner_norm=norm(FFN, eps=1e-2, dtype=dtype))
    weights, x = set_random(layer, dtype), tokens(dtype)
    scale = weights["inner_layernorm.weight"]
    assert scale.shape == (FFN,)

    def inner_norm(inner):
        if norm is RmsNorm:
            return rms_norm(inner, scale, 1e-2)
        return layer_norm(inner, scale, weights["inner_layernorm.bias"], 1e-2)

    reference = FORMULA[kind](x.astype(np.float64), weights, "silu", inner_norm=inner_norm)
    got = run_module(layer, {"x": x}, dtype)
    assert_close(got, reference, dtype)
    with pytest.raises(AssertionError, match="largest error"):
        assert_close(got, FORMULA[kind](x.astype(np.float64), weights, "silu"), "bfloat16")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("activation", "clamp", "gate_offset"),
    [("quick_gelu", 0.5, 1.0), ("quick_gelu", 7.0, 1.0), ("silu", 0.5, 0.0), ("silu", None, -0.5)],
)
def test_clamped_and_offset_gates(activation, clamp, gate_offset, dtype):
    form = {"clamp": clamp, "gate_offset": gate_offset}
    layer = GatedFeedForward(HIDDEN, FFN, activation, dtype=dtype, **form)
    weights, x = set_random(layer, dtype), tokens(dtype)
    if clamp is not None:
        x[0] *= 30  # far beyond 7 as well
    form["clamp"] = np.inf if clamp is None else clamp
    reference = gated_feed_forward(x.astype(np.float64), weights, activation, **form)
    got = run_module(layer, {"x": x}, dtype)
    assert_close(got, reference, dtype)
    for part, none in (("clamp", np.inf), ("gate_offset", 0.0)):
        if form[part] != none:
            other = gated_feed_forward(x.astype(np.float64), weights, activation, **{**form, part: none})
            with pytest.raises(AssertionError, match="largest error"):
                assert_close(got, other, "bfloat16")


def test_which_sides_are_clamped():
    """fc from above only, gate from both sides: identity(min(fc, 2)) * clip(gate, -2, 2) by hand."""
    layer = GatedFeedForward(1, 1, "identity", bias=False, clamp=2.0)
    for part in ("fc", "gate", "proj"):
        getattr(layer, part).weight.value = np.ones((1, 1), np.float32)
    x = np.array([[-5.0], [-1.0], [1.5], [5.0]], np.float32)
    assert run_module(layer, {"x": x}).tolist() == [[10.0], [1.0], [2.25], [4.0]]


def test_relu_is_the_default_as_in_the_original_transformer_and_silu_for_gates():
    assert FeedForward(4, 8).hidden_act == "relu"
    assert GatedFeedForward(4, 8).hidden_act == "silu"


@pytest.mark.parametrize("swap", [False, True])
def test_fc_is_the_activated_matrix_and_gate_the_linear_one(swap):
    """Hand-made weights for which the two orders give different numbers: relu(-1) * 2 = 0, relu(2) * -1 = -2."""
    layer = GatedFeedForward(1, 1, "relu", bias=False)
    fc, gate = (2.0, -1.0) if swap else (-1.0, 2.0)
    for part, value in (("fc", fc), ("gate", gate), ("proj", 1.0)):
        getattr(layer, part).weight.value = np.array([[value]], np.float32)
    got = run_module(layer, {"x": np.array([[1.0]], np.float32)})
    assert got.tolist() == ([[-2.0]] if swap else [[0.0]])


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh", "relu"])
def test_swapping_fc_and_gate_is_noticed_with_random_weights(activation):
    layer = GatedFeedForward(HIDDEN, FFN, activation)
    weights, x = set_random(layer, "float32"), tokens("float32")
    swapped = {**weights}
    for leaf in ("weight", "bias"):
        swapped[f"fc.{leaf}"], swapped[f"gate.{leaf}"] = weights[f"gate.{leaf}"], weights[f"fc.{leaf}"]
    got = run_module(layer, {"x": x})
    assert_close(got, gated_feed_forward(x.astype(np.float64), weights, activation), "float32")
    with pytest.raises(AssertionError, match="largest error"):
        assert_close(got, gated_feed_forward(x.astype(np.float64), swapped, activation), "bfloat16")


def test_the_two_gelus_are_told_apart():
    layer = FeedForward(HIDDEN, FFN, "gelu_erf")
    weights, x = set_random(layer, "float32"), tokens("float32")
    with pytest.raises(AssertionError, match="largest error"):
        assert_close(
            run_module(layer, {"x": x}), feed_forward(x.astype(np.float64), weights, "gelu_tanh"), "float32"
        )


@pytest.mark.parametrize("kind", [FeedForward, GatedFeedForward])
def test_arguments(kind):
    with pytest.raises(ConfigError, match=r"'gelu' is ambiguous"):
        kind(8, 16, "gelu")
    with pytest.raises(ConfigError, match=r"activation 'reul' is not known. Did you mean relu"):
        kind(8, 16, "reul")
    with pytest.raises(
        ConfigError, match=r"ffn_hidden_size=18 does not split over tp_size=4 \(remainder 2\).*pad .* to 20"
    ):
        kind(8, 18, tp_size=4)
    with pytest.raises(ConfigError, match=r"tp_group=\[0, 0\] does not name tp_size=2 different ranks"):
        kind(8, 16, tp_size=2, tp_group=[0, 0])
    with pytest.raises(
        ConfigError,
        match=r"^tp_size=2 without a tp_group: the ranks' shares would not be added. Give tp_group=\[0, 1\]\.$",
    ):
        kind(64, 256, "relu", tp_size=2)
    with pytest.raises(ConfigError, match=r"Give tp_group=list\(range\(64\)\)\.$"):
        kind(64, 256, "relu", tp_size=64)


@pytest.mark.parametrize("clamp", [0.0, -7.0, float("nan")])
def test_a_clamp_that_is_none(clamp):
    with pytest.raises(ConfigError, match=rf"^clamp={clamp} must be above 0, or None"):
        GatedFeedForward(8, 16, clamp=clamp)


@pytest.mark.parametrize("kind", [FeedForward, GatedFeedForward])
def test_a_norm_inside_is_a_module_and_sees_the_whole_width(kind):
    with pytest.raises(ConfigError, match=r"^inner_norm must be a Module, not a float"):
        kind(8, 16, inner_norm=1e-6)
    with pytest.raises(
        ConfigError, match=r"^inner_norm with tp_size=1 inside .* tp_size=2: its statistics are over"
    ):
        kind(8, 16, tp_group=[0, 1], tp_size=2, inner_norm=RmsNorm(16))
    with pytest.raises(ConfigError, match=r"^inner_norm with tp_size=2 inside a feed-forward with tp_size=1"):
        kind(8, 16, inner_norm=RmsNorm(16, tp_group=[0, 1], tp_size=2))
    with pytest.raises(
        ConfigError, match=r"^inner_norm over tp_group=\[2, 3\] .* over tp_group=\[0, 1\]: .* the same ranks"
    ):
        kind(8, 16, tp_group=[0, 1], tp_size=2, inner_norm=RmsNorm(16, tp_group=[2, 3], tp_size=2))
    norm = RmsNorm(16, tp_group=[0, 1], tp_size=2)
    assert kind(8, 16, tp_group=[0, 1], tp_size=2, inner_norm=norm).inner_layernorm is norm


@pytest.mark.parametrize("kind", [FeedForward, GatedFeedForward])
def test_shards_have_their_shapes(kind):
    layer = kind(8, 12, "relu", tp_size=2, tp_group=[0, 1])
    assert layer.fc.weight.shape == (6, 8)
    assert layer.fc.bias.shape == (6,)
    assert layer.proj.weight.shape == (8, 6)
    assert layer.proj.bias.shape == (8,)


@pytest.mark.parametrize("kind", [FeedForward, GatedFeedForward])
@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (("8", 16), r"hidden_size='8' is not a whole number"),
        ((8, 16.0), r"ffn_hidden_size=16.0 is not a whole number"),
        ((True, 16), r"hidden_size=True is not a whole number"),
        ((0, 16), r"hidden_size=0 "),
    ],
)
def test_sizes_that_are_none(kind, sizes, message):
    with pytest.raises(ConfigError, match=rf"^{message}"):
        kind(*sizes)
