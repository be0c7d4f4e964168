"""Self-attention, linear layers and embeddings against their formulas."""

import numpy as np
import pytest
from sampling import covered
from sublayer_formulas import DTYPES, assert_close, linear, run_module, self_attention, set_random

from trtllm_ext.errors import ConfigError
from trtllm_ext.graph import Module
from trtllm_ext.layers import (
    ColumnLinear,
    Embedding,
    Linear,
    Residual,
    RowLinear,
    SelfAttention,
    additive_padding_mask,
)

BUDGET_S = 30

HIDDEN, HEADS, BATCH, SEQ = 24, 3, 4, 6


class Masked(Module):
    """Attention that makes its own mask, as an encoder does."""

    def __init__(self, attention, dtype):
        super().__init__()
        self.attention = attention
        self._dtype = dtype

    def forward(self, x, attention_mask):
        return self.attention(x, additive_padding_mask(attention_mask, self._dtype))


def states(dtype, batch=BATCH):
    return np.random.default_rng(4).normal(size=(batch, SEQ, HIDDEN)).astype(DTYPES[dtype])


def reference_weights(weights):
    return {name.removeprefix("attention."): value for name, value in weights.items()}


@covered(dtype=DTYPES, bias=[True, False])
def test_attention_without_a_mask(dtype, bias):
    layer = SelfAttention(HIDDEN, HEADS, bias=bias, dtype=dtype)
    weights, x = set_random(layer, dtype), states(dtype)
    reference = self_attention(x.astype(np.float64), weights, HEADS)
    assert_close(run_module(layer, {"x": x}, dtype), reference, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_leaves_padding_out(dtype):
    layer = Masked(SelfAttention(HIDDEN, HEADS, dtype=dtype), dtype)
    weights, x = set_random(layer, dtype), states(dtype)
    # right, left, and holes; any number but 0 keeps a token
    mask = np.array([[1] * SEQ, [1] * 3 + [0] * 3, [0] * 4 + [1] * 2, [1, 0, 2, 0, -1, 0]], np.int32)
    reference = self_attention(x.astype(np.float64), reference_weights(weights), HEADS, mask != 0)
    got = run_module(layer, {"x": x, "mask": mask}, dtype)
    assert_close(got, reference, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_padding_has_no_influence_at_all(dtype):
    layer = Masked(SelfAttention(HIDDEN, HEADS, dtype=dtype), dtype)
    set_random(layer, dtype)
    x = states(dtype, batch=2)
    x[1] = x[0]
    x[1, 4:] = 100.0
    mask = np.array([[1, 1, 1, 1, 0, 0]] * 2, np.int32)
    got = run_module(layer, {"x": x, "mask": mask}, dtype)
    assert got[0, :4].tobytes() == got[1, :4].tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_of_padding_gives_no_nan(dtype):
    layer = Masked(SelfAttention(HIDDEN, HEADS, dtype=dtype), dtype)
    set_random(layer, dtype)
    got = run_module(layer, {"x": states(dtype, 1), "mask": np.zeros((1, SEQ), np.int32)}, dtype)
    assert np.isfinite(got.astype(np.float32)).all()


def test_heads_that_are_wider_than_their_share():
    layer = SelfAttention(HIDDEN, HEADS, head_size=16)
    assert layer.qkv.weight.shape == (3 * 48, HIDDEN)
    weights, x = set_random(layer, "float32"), states("float32")
    assert_close(run_module(layer, {"x": x}), self_attention(x.astype(np.float64), weights, HEADS), "float32")


def test_an_encoder_layer_is_two_residual_blocks():
    from sublayer_formulas import feed_forward, layer_norm

    from trtllm_ext.layers import FeedForward, LayerNorm

    class Layer(Module):
        def __init__(self):
            super().__init__()
            self.attention = Residual(SelfAttention(HIDDEN, HEADS), LayerNorm(HIDDEN), "post")
            self.feed_forward = Residual(FeedForward(HIDDEN, 48), LayerNorm(HIDDEN), "post")

        def forward(self, x):
            return self.feed_forward(self.attention(x))

    layer = Layer()
    weights, x = set_random(layer, "float32"), states("float32")
    wide = x.astype(np.float64)
    for name, sublayer in (
        ("attention", lambda x: self_attention(x, weights, HEADS, prefix="attention.sublayer.")),
        ("feed_forward", lambda x: feed_forward(x, weights, "relu", "feed_forward.sublayer.")),
    ):
        norm = weights[f"{name}.norm.weight"], weights[f"{name}.norm.bias"]
        wide = layer_norm(wide + sublayer(wide), *norm, 1e-5)
    assert_close(run_module(layer, {"x": x}), wide, "float32", factor=2)


@covered(kind=[Linear, ColumnLinear, RowLinear], dtype=DTYPES, bias=[True, False], ndim=[2, 3])
def test_linear(kind, dtype, bias, ndim):
    layer = kind(HIDDEN, 10, bias=bias, dtype=dtype)
    weights, x = set_random(layer, dtype), states(dtype)
    x = x if ndim == 3 else np.ascontiguousarray(x[:, 0])
    reference = linear(x.astype(np.float64), {f"l.{name}": value for name, value in weights.items()}, "l")
    assert_close(run_module(layer, {"x": x}, dtype), reference, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_embedding_is_exact(dtype):
    layer = Embedding(20, HIDDEN, dtype)
    set_random(layer, dtype)
    indices = np.array([[0, 19, 3], [3, 3, 7]], np.int32)
    got = run_module(layer, {"x": indices}, dtype)
    assert got.tobytes() == layer.weight.raw_value[indices].tobytes()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Linear(8, 9, tp_size=2), r"out_features=9 does not split over tp_size=2"),
        (lambda: RowLinear(9, 8, tp_size=2), r"in_features=9 does not split over tp_size=2"),
        (lambda: Linear(0, 8), r"in_features=0 with tp_size=1: both must be at least 1"),
        (lambda: Linear(8, 8, tp_size=0), r"tp_size=0: both must be at least 1"),
        (
            lambda: RowLinear(8, 8, tp_size=2, tp_group=[3]),
            r"tp_group=\[3\] does not name tp_size=2 different",
        ),
        (lambda: SelfAttention(10, 3), r"hidden_size=10 does not split over num_att"),
        (lambda: SelfAttention(12, 3, tp_size=2), r"num_attention_heads=3 does not split over tp_size=2"),
        (lambda: SelfAttention(12, 4, tp_size=2), r"^tp_size=2 without a tp_group: .* tp_group=\[0, 1\]"),
        (
            lambda: Linear(8, 100, tp_size=3),
            r"tp_size=3 \(remainder 1\); tp sizes that do: 1, 2, 4, 5, 10, 20, 25, 50, 100\. .* to 102",
        ),
        (lambda: Linear(8, 2**31 - 1, tp_size=2), r"tp sizes that do: 1, \.\.\."),
        (
            lambda: RowLinear(8, 8, tp_size=2, sequence_parallel=True),
            r"sequence_parallel with tp_size=2 needs tp_group",
        ),
        (
            lambda: RowLinear(8, 8, tp_size=2, tp_group=[0, 1], is_expert=True, sequence_parallel=True),
            r"which is_expert leaves undone",
        ),
        (lambda: Embedding(9, 8, tp_size=2), r"num_embeddings=9 does not split over tp_size=2"),
        (lambda: Embedding(8, 8, sharding_dim=2), r"sharding_dim=2 must be 0"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: Linear(8, 6, tp_size=2), (3, 8)),
        (lambda: RowLinear(8, 6, tp_size=2), (6, 4)),
        (lambda: Embedding(8, 6, tp_size=2), (4, 6)),
        (lambda: Embedding(8, 6, tp_size=2, sharding_dim=1), (8, 3)),
    ],
)
def test_shards_have_their_shapes(layer, shape):
    assert layer().weight.shape == shape


@pytest.mark.parametrize("sharding_dim", [0, 1])
def test_shards_of_a_table_are_not_looked_up_in(sharding_dim):
    layer = Embedding(8, 6, tp_size=2, sharding_dim=sharding_dim)
    set_random(layer, "float32")
    with pytest.raises(ConfigError, match=r"tp_size=2 holds one shard .* Use tp_size=1"):
        run_module(layer, {"x": np.zeros((1, 4), np.int32)})


@pytest.mark.parametrize("kind", [Linear, RowLinear])
def test_without_a_group_a_shard_gives_its_share(kind):
    layer = kind(8, 6, tp_size=2)
    weights, x = set_random(layer, "float32"), np.ones((3, layer.weight.shape[1]), np.float32)
    reference = x @ weights["weight"].T + weights["bias"]
    assert_close(run_module(layer, {"x": x}), reference, "float32")


def test_types_are_not_mixed_silently():
    layer = Linear(HIDDEN, 10, dtype="float16")
    set_random(layer, "float16")
    with pytest.raises(Exception, match=r"float16.*float32|float32.*float16"):
        run_module(layer, {"x": states("float32")}, "float32")


def test_unset_weights_are_refused():
    with pytest.raises(Exception, match=r"weight.* has no value"):
        run_module(Linear(HIDDEN, 10), {"x": states("float32")})
