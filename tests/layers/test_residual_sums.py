"""What Residual makes of the stream: the input is added exactly once in each form, and float16 sums are clamped."""

import numpy as np
import pytest
from sampling import covered
from sublayer_formulas import DTYPES, engine_of_module, run_module

import trtllm_ext as tx
from trtllm_ext.checkpoint.hyper_connections import initial_weights
from trtllm_ext.graph import Module, functional
from trtllm_ext.layers import (
    HyperConnections,
    LayerScale,
    ParallelSublayers,
    Residual,
    RmsNorm,
    ScalarGate,
    expand_streams,
    sum_streams,
)

BUDGET_S = 8

TOKENS, HIDDEN, STREAMS = 5, 8, 4


class Given(Module):
    """A sublayer of a user's own that gives the same whatever it reads: a sequence of numbers, one a channel."""

    def __init__(self, values):
        super().__init__()
        self.values = np.asarray(values, np.float32)

    def forward(self, x):
        return x * 0.0 + functional.cast(functional.constant(self.values), x.dtype)


class OnStreams(Module):
    """A block with connections from a single stream to a single one."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        return sum_streams(self.block(expand_streams(x, STREAMS)))


def _norm(dtype, **more):
    # Powers of two, and an eps that float32 does not see beside 1: 1s and -1s keep their digits.
    norm = RmsNorm(HIDDEN, eps=1e-9, dtype=dtype, **more)
    norm.weight.value = _powers(dtype)
    return norm


def _gate(gate, dtype, value):
    gate.weight.value = np.broadcast_to(value, gate.weight.shape).astype(DTYPES[dtype])
    return gate


def _powers(dtype):
    return (2.0 ** (np.arange(HIDDEN) % 2)).astype(DTYPES[dtype])


def _connections(kind, dtype):
    module = HyperConnections(
        HIDDEN, STREAMS, kind, sinkhorn_iterations=20 if kind == "manifold" else 0, dtype=dtype
    )
    for name, value in initial_weights(kind, STREAMS, HIDDEN).items():
        module._parameters[name].value = value.astype(DTYPES[dtype])
    return module


def _streams(kind):
    return lambda f, d: OnStreams(Residual(f, _norm(d), scale=0.5, connections=_connections(kind, d)))


def _wide(dtype):
    return {"stream_dtype": "float32", "dtype": dtype}


# name -> (how to make it around a sublayer in a type, what becomes of x when the sublayer gives 0).
FORMS = {
    "plain": (lambda f, d: Residual(f), 1),
    "pre": (lambda f, d: Residual(f, _norm(d)), 1),
    "branch": (lambda f, d: Residual(f, _norm(d), "branch"), 1),
    "sandwich": (lambda f, d: Residual(f, _norm(d), "sandwich", _norm(d)), 1),
    "scale": (lambda f, d: Residual(f, _norm(d), scale=0.25), 1),
    "skip_scale": (lambda f, d: Residual(f, _norm(d), skip_scale=3.0), 3),
    "channel": (lambda f, d: Residual(f, _norm(d), gate=_gate(LayerScale(HIDDEN, d), d, _powers(d))), 1),
    "scalar": (lambda f, d: Residual(f, gate=_gate(ScalarGate(dtype=d), d, 0.5)), 1),
    "tanh": (lambda f, d: Residual(f, gate=_gate(ScalarGate(tanh=True, dtype=d), d, 20.0)), 1),
    "all factors": (
        lambda f, d: Residual(
            *(f, _norm(d), "sandwich", _norm(d), 0.5),
            skip_scale=-2.0,
            gate=_gate(LayerScale(HIDDEN, d), d, _powers(d)),
        ),
        -2,
    ),
    "clamp": (lambda f, d: Residual(f, _norm(d), clamp=True), 1),
    "parallel, one norm": (lambda f, d: Residual(ParallelSublayers(f, Given(2 * f.values)), _norm(d)), 1),
    "parallel, two norms": (
        lambda f, d: Residual(ParallelSublayers(f, Given(2 * f.values), _norm(d), _norm(d))),
        1,
    ),
    "static connections": (_streams("static"), STREAMS),
    "dynamic connections": (_streams("dynamic"), STREAMS),
    "manifold connections": (_streams("manifold"), STREAMS),
}
WIDE_FORMS = {
    "plain": (lambda f, d: Residual(f, **_wide(d)), 1),
    "pre": (lambda f, d: Residual(f, _norm(d), **_wide(d)), 1),
    "branch": (lambda f, d: Residual(f, _norm(d), "branch", skip_scale=3.0, **_wide(d)), 3),
    "parallel, one norm": (
        lambda f, d: Residual(ParallelSublayers(f, Given(2 * f.values)), _norm(d), **_wide(d)),
        1,
    ),
    "parallel, two norms": (
        lambda f, d: Residual(ParallelSublayers(f, Given(2 * f.values), _norm(d), _norm(d)), **_wide(d)),
        1,
    ),
    "connections": (
        lambda f, d: OnStreams(Residual(f, _norm(d), connections=_connections("static", d), **_wide(d))),
        STREAMS,
    ),
}
CASES = [
    *((FORMS[name], dtype, dtype) for name in FORMS for dtype in DTYPES),
    *((WIDE_FORMS[name], dtype, "float32") for name in WIDE_FORMS for dtype in ("float16", "bfloat16")),
]
NAMES = [*(f"{name}-{d}" for name in FORMS for d in DTYPES)]
NAMES += [*(f"{name}-{d}-wide" for name in WIDE_FORMS for d in ("float16", "bfloat16"))]


def each_form(turn):
    """All cases; by default each form in one type, the types in turn, which test after test starts one further."""
    parameters = []
    for i, (case, name) in enumerate(zip(CASES, NAMES, strict=True)):
        form, place = divmod(i, 3) if i < 3 * len(FORMS) else divmod(i - 3 * len(FORMS), 2)
        is_default = place == (form + turn) % (3 if i < 3 * len(FORMS) else 2)
        parameters.append(pytest.param(*case, id=name, marks=[] if is_default else [pytest.mark.long]))
    return pytest.mark.parametrize(("form", "dtype", "stream_dtype"), parameters)


def whole_numbers(dtype, seed, most=24):
    """Numbers whose sums here are exact in every type: whole, small, and none of them 0."""
    rng = np.random.default_rng(seed)
    return (rng.integers(1, most, (TOKENS, HIDDEN)) * rng.choice([-1, 1], (TOKENS, HIDDEN))).astype(
        DTYPES[dtype]
    )


@each_form(0)
def test_where_the_sublayer_gives_0_the_input_comes_out(form, dtype, stream_dtype):
    make, factor = form
    x = whole_numbers(stream_dtype, 0)
    got = run_module(make(Given(np.zeros(HIDDEN)), dtype), {"x": x}, dtype)
    np.testing.assert_array_equal(got.astype(np.float64), factor * x.astype(np.float64))


@each_form(1)
def test_the_output_moves_as_the_input_does(form, dtype, stream_dtype):
    make, factor = form
    sublayer = Given(np.where(np.arange(HIDDEN) % 2, 1.0, -1.0))
    x1, x2 = (whole_numbers(stream_dtype, seed) for seed in (1, 2))
    engine = engine_of_module(make(sublayer, dtype), {"x": x1}, dtype)
    with tx.Session.from_serialized_engine(engine) as session:
        y1, y2 = (session.run({"x": x})["y"].astype(np.float64) for x in (x1, x2))
    x1, x2 = x1.astype(np.float64), x2.astype(np.float64)
    np.testing.assert_array_equal(y2 - y1, factor * (x2 - x1))
    assert (y1 != factor * x1).any()  # the sublayer did add something


@covered(dtype=DTYPES, skip_scale=[None, 2.0])
def test_post_norm_of_the_input_alone_where_the_sublayer_gives_0(skip_scale, dtype):
    x = whole_numbers(dtype, 3)
    block = Residual(Given(np.zeros(HIDDEN)), _norm(dtype), "post", skip_scale=skip_scale)
    alone = run_module(_norm(dtype), {"x": x if skip_scale is None else x * DTYPES[dtype](skip_scale)}, dtype)
    np.testing.assert_array_equal(run_module(block, {"x": x}, dtype), alone)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_post_norm_on_a_wide_stream_is_the_stream_type(dtype):
    x = whole_numbers("float32", 3)
    for norm, wide in (
        (_norm(dtype), False),
        (_norm(dtype, rounding="after_weight", output_dtype="float32"), True),
    ):
        got = run_module(Residual(Given(np.zeros(HIDDEN)), norm, "post", **_wide(dtype)), {"x": x}, dtype)
        assert got.dtype == np.float32
        assert (got != got.astype(DTYPES[dtype]).astype(np.float32)).any() == wide


class Sum(Module):
    """The second argument: a sublayer whose contribution the caller knows exactly."""

    def forward(self, x, contribution):
        return x * 0.0 + contribution


LARGEST = 65504.0


def clamped_sum(x, contribution, dtype):
    block = Residual(Sum(), clamp=True)
    x, contribution = (np.asarray(value, np.float64).astype(DTYPES[dtype]) for value in (x, contribution))
    return run_module(block, {"x": x, "contribution": contribution}, dtype)


def test_clamped_float16_sums():
    largest_but_1000 = np.float16(LARGEST - 1000)  # 64512: float16's numbers are 32 apart there
    inside = clamped_sum([[LARGEST, -LARGEST, 5.0]], [[0.0, 0.0, 2.0]], "float16")
    np.testing.assert_array_equal(inside, np.float16([[LARGEST, -LARGEST, 7.0]]))
    # One sum beyond the range, in either direction, brings all others under the lower limit: of all rows, as in T5.
    x = [[60000.0, 1.0, -65000.0], [65472.0, -2.0, 64512.0]]
    for sign in (1.0, -1.0):
        got = clamped_sum(sign * np.array(x), sign * np.array([[60000.0, 2.0, 0.0], [0.0] * 3]), "float16")
        limit = largest_but_1000
        np.testing.assert_array_equal(got, sign * np.float16([[limit, 3.0, -limit], [limit, -2.0, limit]]))


def test_the_clamp_has_no_effect_in_other_types():
    x, contribution = [[60000.0, -60000.0, 1.0]], [[60000.0, -60000.0, 2.0]]
    for dtype in ("float32", "bfloat16"):
        got = clamped_sum(x, contribution, dtype)
        np.testing.assert_array_equal(got, 2 * np.array([[60000.0, -60000.0, 1.5]]).astype(DTYPES[dtype]))
    x = np.array([[3.0e38, 1.0]])
    assert np.isinf(clamped_sum(x, x, "float32")[0, 0])
