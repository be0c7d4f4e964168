"""ParallelSublayers in a Residual: attention and feed-forward on the same stream, in each type, and what is refused."""

import numpy as np
import pytest
from sampling import covered
from sublayer_formulas import DTYPES, assert_close, feed_forward, layer_norm, run_module, set_random

from trtllm_ext.errors import ConfigError
from trtllm_ext.graph import Module
from trtllm_ext.layers import (
    FeedForward,
    HyperConnections,
    LayerNorm,
    LayerScale,
    ParallelSublayers,
    Residual,
)

BUDGET_S = 3

HIDDEN, FFN, TOKENS = 24, 56, 7
NARROW = ("float16", "bfloat16")


def tokens(dtype):
    return np.random.default_rng(2).normal(loc=0.5, scale=2.0, size=(TOKENS, HIDDEN)).astype(DTYPES[dtype])


def parallel_block(norms, dtype, wide=False):
    """A Residual around two feed-forwards side by side, with norms for 'none', 'shared' or 'two'."""

    def norm(of):
        return LayerNorm(HIDDEN, dtype=dtype) if norms == of else None

    attention, ffn = FeedForward(HIDDEN, FFN, "tanh", dtype=dtype), FeedForward(HIDDEN, FFN, dtype=dtype)
    sublayers = ParallelSublayers(attention, ffn, norm("two"), norm("two"))
    types = {"stream_dtype": "float32", "dtype": dtype} if wide else {}
    return Residual(sublayers, norm("shared"), skip_scale=1.5, **types)


def parallel_contributions(x, weights, norms):
    """What attention and feed-forward add, in float64."""
    own = {name.removeprefix("sublayer."): value for name, value in weights.items()}

    def normed(name):
        name = {"none": "", "shared": "norm", "two": name}[norms]
        return layer_norm(x, own[f"{name}.weight"], own[f"{name}.bias"], 1e-5) if name else x

    attended = feed_forward(normed("attention_norm"), own, "tanh", "attention.")
    return attended, feed_forward(normed("feed_forward_norm"), own, "relu", "feed_forward.")


@covered(dtype=DTYPES, norms=["none", "shared", "two"])
def test_parallel_sublayers(norms, dtype):
    block = parallel_block(norms, dtype)
    weights, x = set_random(block, dtype), tokens(dtype)
    wide = x.astype(np.float64)
    expected = 1.5 * wide + sum(parallel_contributions(wide, weights, norms))
    assert_close(run_module(block, {"x": x}, dtype), expected, dtype)


@covered(dtype=NARROW, norms=["none", "shared", "two"])
def test_parallel_sublayers_on_a_float32_stream(norms, dtype):
    block = parallel_block(norms, dtype, wide=True)
    weights, x = set_random(block, dtype), tokens("float32")
    if norms != "none":
        # Far from 0, where a narrow type holds few of them: the norms must read the stream as it is.
        x += 1000
    got = run_module(block, {"x": x}, dtype)
    assert got.dtype == np.float32
    wide = x.astype(np.float64)
    read = wide if norms != "none" else x.astype(DTYPES[dtype]).astype(np.float64)
    expected = sum(parallel_contributions(read, weights, norms))
    assert_close(got - 1.5 * wide, expected, dtype)


def test_parallel_contributions_are_widened_before_they_are_added():
    class Half(Module):
        def __init__(self, factor):
            super().__init__()
            self.factor = factor

        def forward(self, x):
            return x * self.factor

    # bfloat16 holds 256 and 1, but not 257.
    block = Residual(ParallelSublayers(Half(256.0), Half(1.0)), stream_dtype="float32", dtype="bfloat16")
    x = np.ones((2, HIDDEN), np.float32)
    np.testing.assert_array_equal(run_module(block, {"x": x}, "bfloat16"), 258 * x)


NORM = LayerNorm(4)
FFN4 = FeedForward(4, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"scale": 0.5},
            r"^scale=0.5 cannot stand around a ParallelSublayers.* Put it into the sublayers",
        ),
        ({"gate": LayerScale(4)}, "gate=LayerScale cannot stand around a Parallel"),
        ({"norm": NORM, "placement": "branch"}, "placement='branch' cannot stand around"),
        (
            {"norm": NORM, "post_norm": NORM, "placement": "sandwich"},
            "placement='sandwich' cannot stand around",
        ),
        ({"connections": HyperConnections(4, 2)}, "connections cannot stand around"),
    ],
)
def test_what_acts_on_the_sum_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Residual(ParallelSublayers(FFN4, FFN4), **arguments)


@pytest.mark.parametrize("name", ["attention", "feed_forward", "attention_norm", "feed_forward_norm"])
def test_parallel_sublayers_are_modules(name):
    modules = {"attention": FFN4, "feed_forward": FFN4, "attention_norm": NORM, "feed_forward_norm": NORM}
    with pytest.raises(ConfigError, match=f"{name} must be a Module, not a str"):
        ParallelSublayers(**{**modules, name: "norm"})
