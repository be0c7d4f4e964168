"""Norms and residual placements against their formulas, in each type."""

import numpy as np
import pytest
from sublayer_formulas import (
    DTYPES,
    TOLERANCE,
    assert_close,
    feed_forward,
    layer_norm,
    residual,
    rms_norm,
    run_module,
    set_random,
)

from trtllm_ext.errors import ConfigError
from trtllm_ext.graph import Module
from trtllm_ext.layers import FeedForward, LayerNorm, Residual, RmsNorm

BUDGET_S = 40

HIDDEN, FFN, TOKENS = 24, 56, 7


def tokens(dtype, shift=0.5):
    x = np.random.default_rng(2).normal(loc=shift, scale=2.0, size=(TOKENS, HIDDEN))
    return x.astype(DTYPES[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("affine", ["weight and bias", "weight", "none"])
@pytest.mark.parametrize("eps", [1e-12, 0.1])
def test_layer_norm(dtype, affine, eps):
    norm = LayerNorm(
        HIDDEN, eps, elementwise_affine=affine != "none", bias=affine == "weight and bias", dtype=dtype
    )
    weights, x = set_random(norm, dtype), tokens(dtype)
    reference = layer_norm(x.astype(np.float64), weights.get("weight", 1.0), weights.get("bias", 0.0), eps)
    assert_close(run_module(norm, {"x": x}, dtype), reference, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("eps", [1e-6, 0.1])
def test_rms_norm(dtype, affine, eps):
    norm = RmsNorm(HIDDEN, eps=eps, elementwise_affine=affine, dtype=dtype)
    weights, x = set_random(norm, dtype), tokens(dtype)
    reference = rms_norm(x.astype(np.float64), weights.get("weight", 1.0), eps)
    assert_close(run_module(norm, {"x": x}, dtype), reference, dtype)


def test_rms_norm_over_two_axes():
    norm = RmsNorm((4, 6))
    weights, x = set_random(norm, "float32"), tokens("float32").reshape(TOKENS, 4, 6)
    flat = rms_norm(x.astype(np.float64).reshape(TOKENS, 24), weights["weight"].reshape(24), 1e-6)
    assert_close(run_module(norm, {"x": x}), flat.reshape(TOKENS, 4, 6), "float32")


def test_rms_norm_in_groups():
    norm = RmsNorm(HIDDEN, num_groups=3)
    weights, x = set_random(norm, "float32"), tokens("float32")
    parts = rms_norm(x.astype(np.float64).reshape(TOKENS, 3, -1), weights["weight"].reshape(3, -1), 1e-6)
    assert_close(run_module(norm, {"x": x}), parts.reshape(TOKENS, HIDDEN), "float32")


def test_norms_of_large_float16_values_do_not_overflow():
    x = np.full((1, HIDDEN), 300.0, np.float16)
    x[0, ::2] = -300.0
    norm = RmsNorm(HIDDEN, dtype="float16")
    weights = set_random(norm, "float16")
    got = run_module(norm, {"x": x}, "float16")
    assert_close(got, rms_norm(x.astype(np.float64), weights["weight"], 1e-6), "float16")
    norm = LayerNorm(HIDDEN, dtype="float16")
    weights = set_random(norm, "float16")
    got = run_module(norm, {"x": x}, "float16")
    assert_close(got, layer_norm(x.astype(np.float64), weights["weight"], weights["bias"], 1e-5), "float16")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["layer_norm", "rms_norm"])
@pytest.mark.parametrize("placement", ["pre", "post", "branch", "sandwich"])
def test_residual(placement, kind, dtype):
    def norm():
        return LayerNorm(HIDDEN, dtype=dtype) if kind == "layer_norm" else RmsNorm(HIDDEN, dtype=dtype)

    post_norm = norm() if placement == "sandwich" else None
    block = Residual(FeedForward(HIDDEN, FFN, dtype=dtype), norm(), placement, post_norm, scale=0.5)
    weights, x = set_random(block, dtype), tokens(dtype)

    def apply(name):
        weight, bias = weights.get(f"{name}.weight"), weights.get(f"{name}.bias")
        if kind == "layer_norm":
            return lambda x: layer_norm(x, weight, bias, 1e-5)
        return lambda x: rms_norm(x, weight, 1e-6)

    def sublayer(x):
        return feed_forward(x, weights, "relu", "sublayer.")

    reference = residual(x.astype(np.float64), sublayer, apply("norm"), placement, apply("post_norm"), 0.5)
    assert_close(run_module(block, {"x": x}, dtype), reference, dtype)
    plain = residual(x.astype(np.float64), sublayer, apply("norm"), "none", scale=0.5)
    assert np.abs(reference - plain).max() > 10 * TOLERANCE[dtype] * np.abs(reference).max()


@pytest.mark.parametrize("scale", [None, 1.0, 0.25, -2.0])
def test_plain_residual_is_f_of_x_plus_x(scale):
    block = Residual(FeedForward(HIDDEN, FFN), scale=scale)
    weights, x = set_random(block, "float32"), tokens("float32")
    reference = x + (1.0 if scale is None else scale) * feed_forward(
        x.astype(np.float64), weights, "relu", "sublayer."
    )
    assert_close(run_module(block, {"x": x}), reference, "float32")


class _Product(Module):
    def forward(self, x, factor, offset=None):
        return x * factor + offset


class _Call(Module):
    def __init__(self):
        super().__init__()
        self.block = Residual(_Product())

    def forward(self, x, factor, offset):
        return self.block(x, factor, offset=offset)


def test_further_arguments_go_to_the_sublayer():
    x, factor, offset = (np.random.default_rng(i).normal(size=(3, 4)).astype(np.float32) for i in range(3))
    got = run_module(_Call(), {"x": x, "factor": factor, "offset": offset})
    np.testing.assert_allclose(got, x + x * factor + offset, rtol=1e-6)


def test_placements_and_norms_that_do_not_fit_are_refused():
    norm, ffn = LayerNorm(4), FeedForward(4, 8)
    with pytest.raises(ConfigError, match=r"placement='pree' is not known. Did you mean pre"):
        Residual(ffn, norm, "pree")
    for placement in ("post", "branch", "sandwich"):
        with pytest.raises(ConfigError, match=f"placement='{placement}' needs a norm"):
            Residual(ffn, None, placement)
    with pytest.raises(ConfigError, match=r"placement='sandwich' needs a post_norm"):
        Residual(ffn, norm, "sandwich")
    with pytest.raises(ConfigError, match=r"placement='pre' has no use for a post_norm"):
        Residual(ffn, norm, "pre", norm)
    with pytest.raises(ConfigError, match=r"eps=0 must be above 0"):
        LayerNorm(4, eps=0)
    with pytest.raises(ConfigError, match=r"num_groups=3 does not divide the axis of 4"):
        RmsNorm(4, num_groups=3)
    with pytest.raises(ConfigError, match=r"num_groups=2 splits one axis; normalized_shape=\(6, 4\) has 2"):
        RmsNorm((6, 4), num_groups=2)


def test_a_residual_takes_modules():
    with pytest.raises(ConfigError, match="sublayer must be a Module, not a function"):
        Residual(lambda x: x)
    with pytest.raises(ConfigError, match="norm must be a Module, not a function"):
        Residual(FeedForward(HIDDEN, FFN), norm=lambda x: x)
