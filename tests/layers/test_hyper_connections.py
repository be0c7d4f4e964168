"""Hyper-connections against their papers' formulas, in each type."""

import numpy as np
import pytest
from sampling import covered
from sublayer_formulas import (
    DTYPES,
    assert_close,
    feed_forward,
    layer_norm,
    run_module,
    set_random,
)

from trtllm_ext.checkpoint.hyper_connections import initial_weights, weight_shapes
from trtllm_ext.errors import ConfigError
from trtllm_ext.graph import Module, functional
from trtllm_ext.layers import FeedForward, HyperConnections, LayerNorm, Residual, expand_streams, sum_streams
from trtllm_ext.layers.hyper_connections import sinkhorn
from trtllm_ext.verify.formulas import connect, connected_residual, sinkhorn_knopp

BUDGET_S = 8

HIDDEN, FFN, TOKENS, EPS, ITERATIONS = 24, 40, 5, 1e-5, 20
KINDS = ("static", "dynamic", "manifold")


class _Call(Module):
    """A function of tensors as a module."""

    def __init__(self, function, *modules):
        super().__init__()
        self.function = function
        for i, module in enumerate(modules):
            setattr(self, f"module{i}", module)

    def forward(self, *tensors):
        return self.function(*tensors)


def connections(kind, streams, dtype="float32", **options):
    options.setdefault("sinkhorn_iterations", ITERATIONS if kind == "manifold" else 0)
    return HyperConnections(HIDDEN, streams, kind, EPS, dtype=dtype, **options)


def options(kind):
    return {"eps": EPS, "iterations": ITERATIONS if kind == "manifold" else 0}


def random_streams(dtype, *shape):
    return np.random.default_rng(3).normal(0.3, 1.5, size=(*shape, HIDDEN)).astype(DTYPES[dtype])


def run_parts(module, streams, dtype="float32"):
    """(x, mixed, beta) of a HyperConnections, beta for each token."""

    def joined(tensor):
        x, mixed, beta = module(tensor)
        return functional.concat([functional.unsqueeze(x, -2), mixed, mixed * 0.0 + beta], -2)

    y = run_module(_Call(joined, module), {"streams": streams}, dtype)
    n = module.num_streams
    return y[..., 0, :], y[..., 1 : n + 1, :], y[..., n + 1 :, :1]


def assert_parts(got, expected, dtype):
    for part, reference in zip(got, expected, strict=True):
        assert_close(part, reference, dtype)


@covered(dtype=DTYPES, count=[1, 2, 4], kind=KINDS)
def test_each_form_in_each_type(kind, count, dtype):
    module = connections(kind, count, dtype)
    weights, streams = set_random(module, dtype), random_streams(dtype, TOKENS, count)
    expected = connect(streams.astype(np.float64), weights, kind, **options(kind))
    assert_parts(run_parts(module, streams, dtype), expected, dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_sequences(kind):
    module = connections(kind, 3)
    weights, streams = set_random(module, "float32"), random_streams("float32", 2, TOKENS, 3)
    expected = connect(streams.astype(np.float64), weights, kind, **options(kind))
    assert_parts(run_parts(module, streams), expected, "float32")


def test_dynamic_form_with_an_rms_norm():
    module = connections("dynamic", 2, norm="rms_norm")
    weights, streams = set_random(module, "float32"), random_streams("float32", TOKENS, 2)
    expected = connect(streams.astype(np.float64), weights, "dynamic", eps=EPS, norm="rms_norm")
    assert_parts(run_parts(module, streams), expected, "float32")


@pytest.mark.parametrize("kind", ["dynamic", "manifold"])
def test_eps_is_the_norms(kind):
    iterations = ITERATIONS if kind == "manifold" else 0
    module = HyperConnections(HIDDEN, 2, kind, 3.0, iterations)
    weights, streams = set_random(module, "float32"), random_streams("float32", TOKENS, 2)
    expected = connect(streams.astype(np.float64), weights, kind, eps=3.0, iterations=iterations)
    assert_parts(run_parts(module, streams), expected, "float32")


def test_sinkhorn_makes_rows_and_columns_sum_to_one():
    logits = np.random.default_rng(0).normal(size=(TOKENS, 4, 4)).astype(np.float32)
    logits[0] *= 100  # exp overflows float32
    got = run_module(_Call(lambda x: sinkhorn(x, ITERATIONS)), {"logits": logits}).astype(np.float64)
    assert got.min() >= 0
    np.testing.assert_allclose(got.sum(-1), 1.0, atol=1e-6)
    np.testing.assert_allclose(got[1:].sum(-2), 1.0, atol=1e-3)
    for matrix, reference in zip(got, logits.astype(np.float64), strict=True):
        np.testing.assert_allclose(matrix, sinkhorn_knopp(reference, ITERATIONS), atol=2e-6)
    one = run_module(_Call(lambda x: sinkhorn(x, 1)), {"logits": logits})
    np.testing.assert_allclose(one[1], sinkhorn_knopp(logits[1].astype(np.float64), 1), atol=1e-6)
    assert np.abs(one[1:].sum(-2) - 1).max() > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_do_not_mix(kind):
    module = connections(kind, 2)
    set_random(module, "float32")
    streams = random_streams("float32", TOKENS, 2)
    changed = streams.copy()
    changed[2] = -3 * changed[2] + 1
    for before, after in zip(run_parts(module, streams), run_parts(module, changed), strict=True):
        np.testing.assert_array_equal(np.delete(before, 2, 0), np.delete(after, 2, 0))


def block(kind, count, dtype="float32"):
    return Residual(
        FeedForward(HIDDEN, FFN, dtype=dtype),
        LayerNorm(HIDDEN, dtype=dtype),
        connections=connections(kind, count, dtype),
    )


def sublayer(weights):
    def apply(x):
        normed = layer_norm(x, weights["norm.weight"], weights["norm.bias"], 1e-5)
        return feed_forward(normed, weights, "relu", "sublayer.")

    return apply


@covered(dtype=DTYPES, kind=KINDS)
def test_in_a_residual_block(kind, dtype):
    module = block(kind, 4, dtype)
    weights, streams = set_random(module, dtype), random_streams(dtype, TOKENS, 4)
    own = {name.split(".")[1]: value for name, value in weights.items() if name.startswith("connections.")}
    reference = connected_residual(streams.astype(np.float64), sublayer(weights), own, kind, **options(kind))
    assert_close(run_module(module, {"streams": streams}, dtype), reference, dtype)


@covered(count=[1, 4], kind=KINDS)
def test_initial_weights_make_a_plain_residual_of_each_stream(kind, count):
    first, second = block(kind, count), block(kind, count)

    def stack(x):
        return sum_streams(second(first(expand_streams(x, count))))

    module = _Call(stack, first, second)
    weights = set_random(module, "float32")
    for index, each in enumerate((first, second)):
        for name, value in initial_weights(kind, count, HIDDEN, index).items():
            getattr(each.connections, name).value = value
    x = random_streams("float32", TOKENS)
    reference = x.astype(np.float64)
    for prefix in ("module0.", "module1."):
        own = {name.removeprefix(prefix): value for name, value in weights.items()}
        reference = reference + sublayer(own)(reference)
    assert_close(run_module(module, {"x": x}), count * reference, "float32")


def test_a_float32_stream_beside_narrower_weights():
    module = connections("manifold", 2, "bfloat16")
    weights, streams = set_random(module, "bfloat16"), random_streams("float32", TOKENS, 2)
    expected = connect(streams.astype(np.float64), weights, "manifold", **options("manifold"))
    assert_parts(run_parts(module, streams), expected, "float32")


def test_streams_are_copies_and_their_sum_is_rounded_once():
    x = random_streams("float16", TOKENS)
    got = run_module(_Call(lambda x: expand_streams(x, 3)), {"x": x}, "float16")
    np.testing.assert_array_equal(got, np.stack([x] * 3, 1))
    large = np.array([[[60000.0], [60000.0], [-60000.0], [-59999.0]]], np.float16)
    assert run_module(_Call(sum_streams), {"streams": large}, "float16") == [[0.0]]


@covered(norm=["layer_norm", "rms_norm"], kind=KINDS)
def test_layer_checkpoint_and_first_values_name_the_same_weights(kind, norm):
    shapes = weight_shapes(kind, 3, HIDDEN, norm=norm)
    module = connections(kind, 3, norm=norm)
    assert {name: parameter.shape for name, parameter in module.named_parameters()} == shapes
    values = initial_weights(kind, 3, HIDDEN, norm=norm)
    assert {name: value.shape for name, value in values.items()} == shapes


def test_forms_that_do_not_exist_are_refused():
    with pytest.raises(ConfigError, match=r"kind='statics' are not known. Did you mean static"):
        HyperConnections(4, 2, "statics")
    with pytest.raises(ConfigError, match=r"norm='l2' are not known. Known: layer_norm, rms_norm"):
        HyperConnections(4, 2, "dynamic", norm="l2")
    with pytest.raises(ConfigError, match="num_streams=0"):
        HyperConnections(4, 0)
    with pytest.raises(ConfigError, match="hidden_size=0"):
        HyperConnections(0, 2)
    with pytest.raises(ConfigError, match=r"eps=0\.0 must be above 0"):
        HyperConnections(4, 2, "dynamic", 0.0)
    with pytest.raises(ConfigError, match="sinkhorn_iterations=0 with kind='manifold'"):
        HyperConnections(4, 2, "manifold")
    with pytest.raises(ConfigError, match="sinkhorn_iterations=5 with kind='static'"):
        HyperConnections(4, 2, sinkhorn_iterations=5)
    with pytest.raises(ConfigError, match="num_streams=0"):
        expand_streams(None, 0)
