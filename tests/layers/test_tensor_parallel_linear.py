"""Matrix layers, feed-forwards and attention over several ranks against the formulas of the whole layer."""

from functools import partial

import numpy as np
import pytest
from rank_modules import random_tokens, run_module_on_ranks, same_on_every_rank, whole_weights
from sampling import covered
from sublayer_formulas import (
    DTYPES,
    assert_close,
    feed_forward,
    gated_feed_forward,
    layer_norm,
    rms_norm,
    run_module,
    self_attention,
)

from trtllm_ext.errors import ConfigError
from trtllm_ext.layers import (
    ColumnLinear,
    FeedForward,
    GatedFeedForward,
    LayerNorm,
    RmsNorm,
    RowLinear,
    SelfAttention,
)

BUDGET_S = 8

pytestmark = pytest.mark.usefixtures("one_thread")

HIDDEN, FFN, TOKENS, HEADS = 24, 56, 7, 4
SIZES = [2, 4]
FORMULA = {FeedForward: feed_forward, GatedFeedForward: gated_feed_forward}


@covered(dtype=DTYPES, size=SIZES)
def test_column_linear(size, dtype):
    make = partial(ColumnLinear, HIDDEN, FFN, dtype=dtype)
    (weights, wide), x = whole_weights(make, dtype), random_tokens(dtype, TOKENS, HIDDEN)
    axes = {"weight": 0, "bias": 0}
    reference = x.astype(np.float64) @ wide["weight"].T + wide["bias"]
    gathered = run_module_on_ranks(make, weights, {"x": x}, size, dtype, axes)
    assert_close(same_on_every_rank(gathered), reference, dtype)
    apart = run_module_on_ranks(partial(make, gather_output=False), weights, {"x": x}, size, dtype, axes)
    assert_close(np.concatenate(apart, -1), reference, dtype)


@covered(dtype=DTYPES, size=SIZES)
def test_row_linear_adds_its_bias_once(size, dtype):
    make = partial(RowLinear, FFN, HIDDEN, dtype=dtype)
    (weights, wide), x = whole_weights(make, dtype), random_tokens(dtype, TOKENS, FFN)
    inputs = [{"x": np.ascontiguousarray(part)} for part in np.split(x, size, -1)]
    reference = x.astype(np.float64) @ wide["weight"].T + wide["bias"]
    got = same_on_every_rank(run_module_on_ranks(make, weights, inputs, size, dtype, {"weight": -1}))
    assert_close(got, reference, dtype)
    for biases in (0, size):
        with pytest.raises(AssertionError, match="largest error"):
            assert_close(got, reference + (biases - 1) * wide["bias"], "bfloat16")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_row_linear_rounds_its_sum_once(dtype):
    """The float32 sum rounded, bit for bit, of products and sums that float32 has exactly."""
    rng = np.random.default_rng(5)
    weight, x = (rng.integers(-100, 101, shape) / 64 for shape in ((HIDDEN, FFN), (TOKENS, FFN)))
    make = partial(RowLinear, FFN, HIDDEN, bias=False, dtype=dtype)
    inputs = [{"x": np.ascontiguousarray(part).astype(DTYPES[dtype])} for part in np.split(x, 4, -1)]
    weights = {"weight": weight.astype(DTYPES[dtype])}
    got = same_on_every_rank(run_module_on_ranks(make, weights, inputs, 4, dtype, {"weight": -1}))
    assert got.tobytes() == (x @ weight.T).astype(DTYPES[dtype]).tobytes()
    shares = [
        (a @ b.T).astype(DTYPES[dtype])
        for a, b in zip(*(np.split(v, 4, -1) for v in (x, weight)), strict=True)
    ]
    assert got.tobytes() != sum(share.astype(np.float64) for share in shares).astype(DTYPES[dtype]).tobytes()


def test_row_linear_of_an_expert_leaves_the_sum_to_others():
    make = partial(RowLinear, FFN, HIDDEN, is_expert=True)
    (weights, wide), x = whole_weights(make, "float32"), random_tokens("float32", TOKENS, FFN)
    inputs = [{"x": np.ascontiguousarray(part)} for part in np.split(x, 4, -1)]
    shares = run_module_on_ranks(make, weights, inputs, 4, "float32", {"weight": -1})
    assert_close(sum(shares), x.astype(np.float64) @ wide["weight"].T + wide["bias"], "float32")


def test_row_linear_scatters_its_sum_over_the_tokens():
    make = partial(RowLinear, FFN, HIDDEN, sequence_parallel=True)
    (weights, wide), x = whole_weights(make, "float32"), random_tokens("float32", 8, FFN)
    inputs = [{"x": np.ascontiguousarray(part)} for part in np.split(x, 4, -1)]
    parts = run_module_on_ranks(make, weights, inputs, 4, "float32", {"weight": -1})
    assert [part.shape for part in parts] == [(2, HIDDEN)] * 4
    reference = x.astype(np.float64) @ wide["weight"].T + wide["bias"]
    assert_close(np.concatenate(parts), reference, "float32")


@covered(dtype=DTYPES, size=SIZES, kind=[FeedForward, GatedFeedForward])
def test_feed_forward(kind, size, dtype):
    make = partial(kind, HIDDEN, FFN, "silu", dtype=dtype)
    (weights, wide), x = whole_weights(make, dtype), random_tokens(dtype, TOKENS, HIDDEN)
    got = same_on_every_rank(run_module_on_ranks(make, weights, {"x": x}, size, dtype))
    reference = FORMULA[kind](x.astype(np.float64), wide, "silu")
    assert_close(got, reference, dtype)
    for name, wrong in _mistakes(wide, size):
        with pytest.raises(AssertionError, match="largest error"):
            assert_close(got, FORMULA[kind](x.astype(np.float64), wrong, "silu"), "bfloat16")
            pytest.fail(f"{name} makes no difference")


def _mistakes(wide, size):
    """Whole weights as a mistake in sharding would have them: each gives another answer."""
    yield "a bias on every rank", wide | {"proj.bias": size * wide["proj.bias"]}
    turned = np.concatenate([np.split(wide["fc.weight"], size)[rank - 1] for rank in range(size)])
    yield "another rank's rows", wide | {"fc.weight": turned}
    if "gate.weight" in wide:
        yield (
            "fc and gate swapped",
            wide | {"fc.weight": wide["gate.weight"], "gate.weight": wide["fc.weight"]},
        )
        both = np.concatenate([wide["fc.weight"], wide["gate.weight"]])
        halves = [np.split(part, 2) for part in np.split(both, size)]
        fc, gate = (np.concatenate([half[i] for half in halves]) for i in range(2))
        yield "a fused matrix cut in its middle", wide | {"fc.weight": fc, "gate.weight": gate}


@pytest.mark.parametrize("form", [{"clamp": 0.5, "gate_offset": 1.0, "proj_bias": False}, {"bias": False}])
def test_gated_forms(form):
    make = partial(GatedFeedForward, HIDDEN, FFN, "quick_gelu", **form)
    (weights, wide), x = whole_weights(make, "float32"), random_tokens("float32", TOKENS, HIDDEN)
    got = same_on_every_rank(run_module_on_ranks(make, weights, {"x": x}, 2))
    options = {name: form[name] for name in ("clamp", "gate_offset") if name in form}
    assert_close(got, gated_feed_forward(x.astype(np.float64), wide, "quick_gelu", **options), "float32")


@covered(kind=[FeedForward, GatedFeedForward], size=SIZES)
def test_feed_forward_of_own_tokens(size, kind):
    make = partial(kind, HIDDEN, FFN, "silu", sequence_parallel=True)
    (weights, wide), x = whole_weights(make, "float32"), random_tokens("float32", 8, HIDDEN)
    inputs = [{"x": np.ascontiguousarray(part)} for part in np.split(x, size)]
    parts = run_module_on_ranks(make, weights, inputs, size)
    assert_close(np.concatenate(parts), FORMULA[kind](x.astype(np.float64), wide, "silu"), "float32")


NORMS = {
    "layer norm": (LayerNorm, {}),
    "layer norm, offset": (LayerNorm, {"weight_offset": 1.0, "bias": False}),
    "layer norm, bare": (LayerNorm, {"elementwise_affine": False}),
    "RMS, before": (RmsNorm, {"rounding": "before_weight"}),
    "RMS, after": (RmsNorm, {"rounding": "after_weight"}),
    "RMS, offset": (RmsNorm, {"weight_offset": 1.0}),
    "RMS, bare": (RmsNorm, {"elementwise_affine": False}),
}


@covered(ranks=[(2, "float32"), (4, "float32"), (2, "float16"), (4, "bfloat16")], name=NORMS)
def test_a_norm_inside_has_the_statistics_of_the_whole_width(name, ranks):
    size, dtype = ranks
    kind, form = NORMS[name]

    def make(**ranks):
        norm = kind(FFN, eps=1e-2, dtype=dtype, **form, **ranks)
        return FeedForward(HIDDEN, FFN, "relu", dtype=dtype, inner_norm=norm, **ranks)

    (weights, wide), x = whole_weights(make, dtype), random_tokens(dtype, TOKENS, HIDDEN)
    got = same_on_every_rank(run_module_on_ranks(make, weights, {"x": x}, size, dtype))
    scale = wide.get("inner_layernorm.weight", np.ones(FFN)) + form.get("weight_offset", 0.0)
    shift = wide.get("inner_layernorm.bias", 0.0)

    def inner_norm(inner, parts=1):
        formula = rms_norm if kind is RmsNorm else partial(layer_norm, bias=0.0)
        normed = [formula(part, weight=1.0, eps=1e-2) for part in np.split(inner, parts, -1)]
        return np.concatenate(normed, -1) * scale + shift

    wide_x = x.astype(np.float64)
    assert_close(got, feed_forward(wide_x, wide, "relu", inner_norm=inner_norm), dtype)
    with pytest.raises(AssertionError, match="largest error"):
        alone = partial(inner_norm, parts=size)
        assert_close(got, feed_forward(wide_x, wide, "relu", inner_norm=alone), dtype)


@covered(dtype=DTYPES, size=SIZES)
def test_attention_with_its_heads_split(size, dtype):
    make = partial(SelfAttention, HIDDEN, HEADS, dtype=dtype)
    (weights, wide), x = whole_weights(make, dtype), random_tokens(dtype, 3, 5, HIDDEN)
    got = same_on_every_rank(run_module_on_ranks(make, weights, {"x": x}, size, dtype))
    reference = self_attention(x.astype(np.float64), wide, HEADS)
    assert_close(got, reference, dtype)
    # A rank with the q, k and v of others' heads.
    wrong = wide | {
        "qkv.weight": np.concatenate([np.split(wide["qkv.weight"], size)[rank - 1] for rank in range(size)])
    }
    for each in (wrong, wide | {"dense.bias": size * wide["dense.bias"]}):
        with pytest.raises(AssertionError, match="largest error"):
            assert_close(got, self_attention(x.astype(np.float64), each, HEADS), "bfloat16")


def test_a_norm_over_ranks_by_itself():
    """Groups that a rank has whole are normalised without the others."""
    make = partial(RmsNorm, FFN, num_groups=4)
    (weights, wide), x = whole_weights(make, "float32"), random_tokens("float32", TOKENS, FFN)
    inputs = [{"x": np.ascontiguousarray(part)} for part in np.split(x, 2, -1)]
    got = np.concatenate(run_module_on_ranks(make, weights, inputs, 2, "float32", {"weight": 0}), -1)
    groups = [rms_norm(part, 1.0, 1e-6) for part in np.split(x.astype(np.float64), 4, -1)]
    assert_close(got, np.concatenate(groups, -1) * wide["weight"], "float32")


@pytest.mark.parametrize("kind", [LayerNorm, RmsNorm])
def test_a_norm_over_ranks_takes_no_other_axes(kind):
    norm = kind(FFN, elementwise_affine=False, tp_group=[0, 1], tp_size=2)
    x = random_tokens("float32", TOKENS, FFN // 2)
    with pytest.raises(
        ConfigError, match=r"normalized_shape=\(7, 28\) .* tp_size=2, of whose axis .* has 28"
    ):
        run_module(lambda x: norm(x, (TOKENS, FFN // 2)), {"x": x})


@pytest.mark.parametrize("kind", [LayerNorm, RmsNorm])
def test_a_norm_over_ranks_of_another_width(kind):
    norm = kind(2 * FFN, elementwise_affine=False, tp_group=[0, 1], tp_size=2)
    with pytest.raises(
        ConfigError, match=r"an axis of 112 over tp_size=2 has 56 of it on each.* input has 28"
    ):
        run_module(norm, {"x": random_tokens("float32", TOKENS, FFN // 2)})
