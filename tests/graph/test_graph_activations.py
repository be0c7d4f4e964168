"""Activation functions against their formulas in float64."""

import math

import ml_dtypes
import numpy as np
import pytest
from sampling import covered

import trtllm_ext.embedded as trt
from trtllm_ext.errors import GraphError
from trtllm_ext.graph import functional as fn

BUDGET_S = 12

RNG = np.random.default_rng(3)
X = (RNG.normal(size=(3, 8)) * 2).astype(np.float32)


def sigmoid(x):
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def gelu_tanh(x):
    x = x.astype(np.float64)
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gelu_erf(x):
    x = x.astype(np.float64)
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


REFERENCE = {
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "sigmoid": sigmoid,
    "silu": lambda x: x * sigmoid(x),
    "gelu": gelu_tanh,
    "quick_gelu": lambda x: x * sigmoid(1.702 * x),
    "squared_relu": lambda x: np.maximum(x, 0) ** 2,
}


@pytest.mark.parametrize("name", REFERENCE)
def test_activation(run, name):
    np.testing.assert_allclose(run(getattr(fn, name), X), REFERENCE[name](X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype, rtol", [(np.float16, 4e-3), (ml_dtypes.bfloat16, 3e-2)])
@pytest.mark.parametrize("name", ["relu", "silu", "gelu", "squared_relu"])
def test_activation_in_narrow_types(run, name, dtype, rtol):
    x = X.astype(dtype)
    got = run(getattr(fn, name), x)
    assert got.dtype == dtype
    np.testing.assert_allclose(
        got.astype(np.float32), REFERENCE[name](x.astype(np.float32)), rtol=rtol, atol=rtol / 4
    )


def test_gelu_forms_are_told_apart(run):
    x = np.array([2.0, -2.0, 1.0], np.float32)
    tanh_form, erf_form = run(lambda x: (fn.gelu(x), fn.activation(x, trt.ActivationType.GELU_ERF)), x)
    np.testing.assert_allclose(tanh_form, gelu_tanh(x), atol=1e-6)
    np.testing.assert_allclose(erf_form, gelu_erf(x), atol=1e-6)
    assert np.abs(tanh_form - erf_form).max() > 1e-4


def test_gelu_is_composed_where_tensorrt_has_no_gelu(run, monkeypatch):
    class ActivationTypeOf8:
        TANH = trt.ActivationType.TANH

    monkeypatch.setattr(trt, "ActivationType", ActivationTypeOf8)
    np.testing.assert_allclose(run(fn.gelu, X), gelu_tanh(X), rtol=1e-5, atol=1e-6)


def test_softplus(run):
    x = np.array([-30.0, -1.0, 0.0, 1.0, 9.0, 30.0], np.float32)
    want = np.where(2.0 * x > 20.0, x, np.log1p(np.exp(np.minimum(2.0 * x.astype(np.float64), 50))) / 2.0)
    np.testing.assert_allclose(run(lambda x: fn.softplus(x, 2.0, 20.0), x), want, rtol=1e-5, atol=1e-6)


def test_clip(run):
    np.testing.assert_allclose(run(lambda x: fn.clip(x, -0.5, 1.25), X), np.clip(X, -0.5, 1.25))


@pytest.mark.parametrize("shape", [(3, 8), (-1, 8)])
def test_swiglu_activates_the_second_half(run, shape):
    a, b = X[:, :4], X[:, 4:]
    np.testing.assert_allclose(run(fn.swiglu, X, shapes=[shape]), a * b * sigmoid(b), rtol=1e-5, atol=1e-6)


def test_geglu_activates_the_second_half(run):
    a, b = X[:, :4], X[:, 4:]
    np.testing.assert_allclose(run(fn.geglu, X, shapes=[(-1, 8)]), a * gelu_tanh(b), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("limit", [None, 1.0])
def test_gegelu_is_interleaved(run, limit):
    a, b = X[:, 0::2].astype(np.float64), X[:, 1::2].astype(np.float64)
    if limit is not None:
        a, b = np.minimum(a, limit), np.clip(b, -limit, limit)
    want = a * sigmoid(1.702 * a) * (b + 1)
    np.testing.assert_allclose(
        run(lambda x: fn.gegelu(x, limit), X, shapes=[(-1, 8)]), want, rtol=1e-5, atol=1e-6
    )


@covered(gate=[fn.swiglu, fn.geglu, fn.gegelu], shape=[(2, 7), (2, -1)])
def test_gates_need_an_even_known_width(guarded, gate, shape):
    _, add_input = guarded
    with pytest.raises(GraphError, match="must be even and known"):
        gate(add_input("x", "float32", shape))
