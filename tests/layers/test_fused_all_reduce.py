"""`all_reduce_params` of layers: residual and norm behind the sum over the ranks, against the whole layer's formula."""

from functools import partial

import numpy as np
import pytest
from rank_modules import module_engines, random_tokens, run_engines, same_on_every_rank, whole_weights
from sampling import covered
from sublayer_formulas import (
    DTYPES,
    assert_close,
    engine_of_module,
    gated_feed_forward,
    rms_norm,
    run_module,
    set_random,
)

import trtllm_ext as tx
from trtllm_ext.errors import ConfigError
from trtllm_ext.graph import Module, Parameter
from trtllm_ext.graph import functional as fn
from trtllm_ext.layers import GatedFeedForward, RowLinear

BUDGET_S = 5

pytestmark = pytest.mark.usefixtures("one_thread")

HIDDEN, FFN, TOKENS, EPS = 24, 56, 7, 1e-2
RESIDUAL_RMS_NORM = fn.AllReduceFusionOp.RESIDUAL_RMS_NORM


class Followed(Module):
    """A layer with residual and norm behind its sum, as code for TensorRT-LLM writes it: y0 normed, y1 the sum."""

    def __init__(self, kind, *sizes, dtype, tp_group, tp_size, **form):
        super().__init__()
        self.layer = kind(*sizes, dtype=dtype, tp_group=tp_group, tp_size=tp_size, **form)
        self.norm_weight = Parameter(shape=(HIDDEN,), dtype=dtype)

    def forward(self, x, residual):
        params = fn.AllReduceParams(
            strategy=fn.AllReduceStrategy.NCCL,
            fusion_op=RESIDUAL_RMS_NORM,
            residual=residual,
            norm_weight=self.norm_weight.value,
            eps=EPS,
        )
        normed, total = self.layer(x, all_reduce_params=params)
        assert params.bias is None
        assert (normed.dtype, total.dtype) == (x.dtype, residual.dtype)
        return fn.concat([normed, fn.cast(total, x.dtype)], 0)


def outputs(make, weights, inputs, size, dtype):
    if size == 1:
        module = make(tp_group=None, tp_size=1)
        for name, parameter in module.named_parameters():
            parameter.value = weights[name]
        with tx.Session.from_serialized_engine(engine_of_module(module, inputs[0], dtype)) as session:
            return session.run(inputs[0])["y"]
    axes = {
        "layer.weight": -1,
        "fc.weight": 0,
        "fc.bias": 0,
        "gate.weight": 0,
        "gate.bias": 0,
        "proj.weight": -1,
    }
    engines = module_engines(make, weights, inputs, size, dtype, axes)
    return same_on_every_rank([each["y"] for each in run_engines(engines, inputs)])


@covered(stream=["same", "float32"], dtype=DTYPES, size=[1, 2])
def test_row_linear_with_residual_and_norm(size, dtype, stream):
    make = partial(Followed, RowLinear, FFN, HIDDEN, dtype=dtype)
    (weights, wide), x = whole_weights(make, dtype), random_tokens(dtype, TOKENS, FFN)
    residual = random_tokens(dtype if stream == "same" else "float32", TOKENS, HIDDEN, seed=3)
    inputs = [{"x": np.ascontiguousarray(part), "residual": residual} for part in np.split(x, size, -1)]
    got = np.split(outputs(make, weights, inputs, size, dtype), 2)

    def expected(biases):
        total = x.astype(np.float64) @ wide["layer.weight"].T + residual.astype(np.float64)
        total = total + biases * wide["layer.bias"]
        return rms_norm(total, wide["norm_weight"], EPS), total

    for each, reference in zip(got, expected(1), strict=True):
        assert_close(each, reference, dtype)
    for biases in (0, 2):
        for each, wrong in zip(got, expected(biases), strict=True):
            with pytest.raises(AssertionError, match="largest error"):
                assert_close(each, wrong, "bfloat16")


@pytest.mark.parametrize("dtype", DTYPES)
def test_gated_feed_forward_with_residual_and_norm(dtype):
    make = partial(Followed, GatedFeedForward, HIDDEN, FFN, "silu", dtype=dtype)
    (weights, wide), x = whole_weights(make, dtype), random_tokens(dtype, TOKENS, HIDDEN)
    residual = random_tokens(dtype, TOKENS, HIDDEN, seed=3)
    normed, total = np.split(outputs(make, weights, [{"x": x, "residual": residual}] * 2, 2, dtype), 2)
    reference = gated_feed_forward(x.astype(np.float64), wide, "silu", "layer.") + residual.astype(np.float64)
    assert_close(total, reference, dtype)
    assert_close(normed, rms_norm(reference, wide["norm_weight"], EPS), dtype)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_sum_is_rounded_once(dtype):
    """Behind bias and residual: of whole numbers below 2^24, which float32 adds exactly."""
    rng = np.random.default_rng(5)
    make = partial(Followed, RowLinear, FFN, HIDDEN, dtype=dtype)
    weights, wide = whole_weights(make, dtype)
    for name, value in weights.items():
        wide[name] = rng.integers(-30, 31, value.shape)
        weights[name] = wide[name].astype(DTYPES[dtype])
    x, residual = (rng.integers(-30, 31, (TOKENS, width)) for width in (FFN, HIDDEN))
    parts = np.split(x.astype(DTYPES[dtype]), 2, -1)
    given = [{"x": np.ascontiguousarray(part), "residual": residual.astype(DTYPES[dtype])} for part in parts]
    total = np.split(outputs(make, weights, given, 2, dtype), 2)[1]
    whole = x @ wide["layer.weight"].T + wide["layer.bias"] + residual
    assert total.tobytes() == whole.astype(DTYPES[dtype]).tobytes()


@pytest.mark.parametrize("form", [{}, {"is_expert": True}, {"tp_group": None}], ids=str)
def test_params_without_a_fusion_change_nothing(form):
    """Their bias and residual have no effect, as in TensorRT-LLM."""

    class Both(Module):
        def __init__(self, tp_group, tp_size):
            super().__init__()
            self.layer = RowLinear(FFN, HIDDEN, **{"tp_group": tp_group, "tp_size": tp_size} | form)

        def forward(self, x):
            params = fn.AllReduceParams(strategy=fn.AllReduceStrategy.ONESHOT, residual=x, bias=x)
            return fn.concat([self.layer(x), self.layer(x, all_reduce_params=params)], 0)

    weights, x = whole_weights(Both, "float32")[0], random_tokens("float32", TOKENS, FFN // 2)
    engines = module_engines(Both, weights, {"x": x}, 2, axes={"layer.weight": -1})
    for rank in run_engines(engines, {"x": x}):
        plain, with_params = np.split(rank["y"], 2)
        assert plain.any()
        assert plain.tobytes() == with_params.tobytes()


@pytest.mark.parametrize(
    "form",
    [{"tp_group": None}, {"is_expert": True}, {"sequence_parallel": True}],
    ids=lambda form: next(iter(form)),
)
def test_a_fusion_without_a_whole_sum(form):
    layer = RowLinear(FFN, HIDDEN, **{"tp_group": [0, 1], "tp_size": 2} | form)
    set_random(layer, "float32")

    def network(x):
        params = fn.AllReduceParams(
            fusion_op=RESIDUAL_RMS_NORM, residual=fn.slice(x, [0, 0], [TOKENS, HIDDEN])
        )
        return layer(x, all_reduce_params=params)[0]

    with pytest.raises(
        ConfigError, match=r"^fusion_op=RESIDUAL_RMS_NORM follows the whole sum over the ranks"
    ):
        run_module(network, {"x": random_tokens("float32", TOKENS, FFN // 2)})
