"""Norms against their formulas: each type, statistics in float32, eps, the weight's offset, what is rounded where."""

import numpy as np
import pytest
from sampling import covered
from sublayer_formulas import DTYPES, TOLERANCE, assert_close, layer_norm, rms_norm, run_module, set_random

from trtllm_ext.errors import ConfigError
from trtllm_ext.layers import LayerNorm, RmsNorm

BUDGET_S = 8

HIDDEN, TOKENS = 24, 7
NARROW = ("float16", "bfloat16")


def tokens(dtype, shift=0.5, rows=TOKENS, width=2.0):
    x = np.random.default_rng(2).normal(loc=shift, scale=width, size=(rows, HIDDEN))
    return x.astype(DTYPES[dtype])


def formula(norm, x, weights, eps=None):
    """The float64 reference of a LayerNorm or RmsNorm."""
    weight = weights.get("weight", 1.0 - norm.weight_offset) + norm.weight_offset
    eps = norm.eps if eps is None else eps
    if isinstance(norm, LayerNorm):
        return layer_norm(x.astype(np.float64), weight, weights.get("bias", 0.0), eps)
    return rms_norm(x.astype(np.float64), weight, eps)


def check(norm, x, dtype, y_dtype=None):
    """A norm with random weights of `dtype`, on x of any type; returns the result and the weights."""
    weights = set_random(norm, dtype)
    got = run_module(norm, {"x": x}, dtype)
    assert got.dtype == DTYPES[y_dtype or dtype]
    assert_close(got, formula(norm, x, weights), y_dtype or dtype)
    return got, weights


@covered(dtype=DTYPES, affine=["weight and bias", "weight", "1 + weight", "1 + weight and bias", "none"])
def test_layer_norm(dtype, affine):
    norm = LayerNorm(
        HIDDEN,
        0.1,
        elementwise_affine=affine != "none",
        bias=affine.endswith("bias"),
        dtype=dtype,
        weight_offset=1.0 if affine.startswith("1") else 0.0,
    )
    _, weights = check(norm, tokens(dtype), dtype)
    expected = {"weight", "bias"} if affine.endswith("bias") else {"weight"}
    assert set(weights) == (set() if affine == "none" else expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "form",
    [
        {},
        {"rounding": "after_weight"},
        {"weight_offset": 1.0},
        {"elementwise_affine": False},
    ],
    ids=str,
)
def test_rms_norm(dtype, form):
    check(RmsNorm(HIDDEN, eps=0.1, dtype=dtype, **form), tokens(dtype), dtype)


NORMS = {
    "layer_norm": lambda **more: LayerNorm(HIDDEN, **more),
    "layer_norm, 1 + weight": lambda **more: LayerNorm(HIDDEN, weight_offset=1.0, **more),
    "rms_norm, before": lambda **more: RmsNorm(HIDDEN, rounding="before_weight", **more),
    "rms_norm, after": lambda **more: RmsNorm(HIDDEN, rounding="after_weight", **more),
    "rms_norm, 1 + weight": lambda **more: RmsNorm(HIDDEN, weight_offset=1.0, **more),
}


@covered(dtype=NARROW, name=NORMS)
def test_a_float32_stream_beside_narrower_weights_gives_their_type(name, dtype):
    check(NORMS[name](dtype=dtype), tokens("float32"), dtype)


@covered(dtype=NARROW, name=[name for name in NORMS if "before" not in name])
def test_with_an_output_type_nothing_is_rounded_to_the_weights(name, dtype):
    check(NORMS[name](dtype=dtype, output_dtype="float32"), tokens("float32"), dtype, "float32")


@pytest.mark.parametrize("name", [name for name in NORMS if "before" in name])
def test_rounding_before_the_weight_stays_with_an_output_type(name):
    got, _ = check(NORMS[name](dtype="bfloat16"), tokens("float32"), "bfloat16")
    wide = NORMS[name](dtype="bfloat16", output_dtype="float32")
    set_random(wide, "bfloat16")
    wider = run_module(wide, {"x": tokens("float32")}, "bfloat16")
    assert wider.dtype == np.float32
    np.testing.assert_array_equal(wider, got.astype(np.float32))


# Their squares, and the sum of their squares or of themselves, are beyond float16's 65504.
@covered(size=[1e3, 6e4], dtype=NARROW, name=NORMS)
def test_statistics_of_large_values_do_not_overflow(name, dtype, size):
    x = np.random.default_rng(4).uniform(0.6, 1.0, size=(TOKENS, HIDDEN)) * size
    x[:, ::3] *= -1
    check(NORMS[name](dtype=dtype), x.astype(DTYPES[dtype]), dtype)


# In float16 the squares of these are 0; in bfloat16 sums of them lose all but their first two digits.
@covered(dtype=NARROW, name=NORMS)
def test_statistics_of_small_values_keep_their_digits(name, dtype):
    check(NORMS[name](dtype=dtype, eps=1e-12), tokens(dtype, shift=0.0, width=1e-4), dtype)


@pytest.mark.parametrize("dtype", NARROW)
def test_a_mean_far_from_0_is_taken_off_exactly(dtype):
    # 2048 and 2050 are neighbours in float16, so is 256 and 258 in bfloat16: a mean of that type would be one of them.
    base = {"float16": 2048.0, "bfloat16": 256.0}[dtype]
    x = base + 2.0 * (np.random.default_rng(5).random((TOKENS, HIDDEN)) < 0.3)
    check(LayerNorm(HIDDEN, dtype=dtype), x.astype(DTYPES[dtype]), dtype)


@covered(dtype=DTYPES, eps=[1e-12, 1e-6], name=NORMS)
def test_eps_is_the_one_given(name, eps, dtype):
    x, norm = tokens(dtype, shift=0.0, width=1e-6), NORMS[name](dtype=dtype, eps=eps)
    weights = set_random(norm, dtype)
    if "bias" in weights:  # it would hide how small the rest is
        weights["bias"] = norm.bias.value = np.zeros(HIDDEN, DTYPES[dtype])
    right = formula(norm, x, weights)
    assert_close(run_module(norm, {"x": x}, dtype), right, dtype)
    for wrong in (eps / 2, 1e-5):
        error = np.abs(right - formula(norm, x, weights, wrong)).max()
        assert error > 2 * TOLERANCE[dtype] * np.abs(right).max()


def rounded(values, dtype):
    """values of float64 in `dtype`, and where a float32 computation could not round them the other way."""
    nearest = values.astype(DTYPES[dtype])
    above, below = (np.float64(values * (1 + sign * 1e-5)).astype(DTYPES[dtype]) for sign in (1, -1))
    return nearest, (above == nearest) & (below == nearest)


def test_a_small_gamma_of_1_plus_gamma_is_not_lost():
    gamma = 2.0**-9  # 1 + gamma is 1 in bfloat16
    norm = RmsNorm(HIDDEN, dtype="bfloat16", weight_offset=1.0)
    norm.weight.value = np.full(HIDDEN, gamma, DTYPES["bfloat16"])
    x = tokens("bfloat16", rows=40)
    normed = rms_norm(x.astype(np.float64), 1.0, norm.eps)
    expected, sure = rounded(normed * (1 + gamma), "bfloat16")
    got = run_module(norm, {"x": x}, "bfloat16")
    assert sure.mean() > 0.9
    np.testing.assert_array_equal(got[sure], expected[sure])
    assert (got != normed.astype(DTYPES["bfloat16"]))[sure].mean() > 0.1


@covered(dtype=NARROW, stream=["model", "float32"])
def test_rounding_before_and_after_the_weight_bit_for_bit(stream, dtype):
    x = tokens("float32" if stream == "float32" else dtype, rows=40)
    normed = rms_norm(x.astype(np.float64), 1.0, 1e-6)
    results = {}
    for rounding in ("before_weight", "after_weight"):
        norm = RmsNorm(HIDDEN, dtype=dtype, rounding=rounding)
        weight = set_random(norm, dtype)["weight"]
        once, sure_once = rounded(normed * weight, dtype)
        first, sure_first = rounded(normed, dtype)
        # The product of two narrow numbers is exact in float32: nothing is unsure about its rounding.
        twice = (first.astype(np.float64) * weight).astype(DTYPES[dtype])
        expected, sure = (once, sure_once) if rounding == "after_weight" else (twice, sure_first)
        assert sure.mean() > 0.9
        results[rounding] = run_module(norm, {"x": x}, dtype)
        np.testing.assert_array_equal(results[rounding][sure], expected[sure])
    assert (results["before_weight"] != results["after_weight"]).mean() > 0.1


def test_rms_norm_over_two_axes():
    norm = RmsNorm((4, 6))
    weights, x = set_random(norm, "float32"), tokens("float32").reshape(TOKENS, 4, 6)
    flat = rms_norm(x.astype(np.float64).reshape(TOKENS, 24), weights["weight"].reshape(24), 1e-6)
    assert_close(run_module(norm, {"x": x}), flat.reshape(TOKENS, 4, 6), "float32")


@pytest.mark.parametrize("form", [{}, {"rounding": "after_weight"}, {"weight_offset": 1.0}], ids=str)
def test_rms_norm_in_groups(form):
    norm = RmsNorm(HIDDEN, num_groups=3, **form)
    weights, x = set_random(norm, "float32"), tokens("float32")
    weight = (weights["weight"] + norm.weight_offset).reshape(3, -1)
    parts = rms_norm(x.astype(np.float64).reshape(TOKENS, 3, -1), weight, 1e-6)
    assert_close(run_module(norm, {"x": x}), parts.reshape(TOKENS, HIDDEN), "float32")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LayerNorm(4, eps=0), r"eps=0 must be above 0"),
        (lambda: RmsNorm(4, eps=float("nan")), r"eps=nan must be above 0"),
        (lambda: LayerNorm(4, tp_size=0), r"tp_size=0: both must be at least 1"),
        (lambda: RmsNorm(4, num_groups=3), r"num_groups=3 does not divide the axis of 4"),
        (
            lambda: RmsNorm(12, num_groups=3, tp_group=[0, 1], tp_size=2),
            r"num_groups=3 over tp_size=2 would be 1.5 groups per rank.* splits over: 1, 3\. Pick one",
        ),
        (lambda: RmsNorm((6, 4), num_groups=2), r"splits one axis; normalized_shape=\(6, 4\) has 2"),
        (
            lambda: RmsNorm(4, rounding="befor_weight"),
            r"rounding='befor_weight' .* Did you mean before_weight",
        ),
        (
            lambda: RmsNorm(4, weight_offset=1.0, rounding="before_weight"),
            r"weight_offset=1.0 is added in float32; use rounding='after_weight'",
        ),
        (lambda: LayerNorm(4, output_dtype="float8"), r"'float8' is not a weight type. Did you mean float"),
        (lambda: RmsNorm(4, output_dtype="int32"), r"'int32' is not a weight type"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
