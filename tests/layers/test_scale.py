"""LayerScale and ScalarGate against their formulas, in each type and on a wider stream."""

import numpy as np
import pytest
from sampling import covered
from sublayer_formulas import DTYPES, assert_close, run_module, set_random

from trtllm_ext.layers import LayerScale, ScalarGate

BUDGET_S = 5

HIDDEN = 24
GATES = {
    "channel": (lambda dtype: LayerScale(HIDDEN, dtype), lambda x, weight: weight * x),
    "scalar": (lambda dtype: ScalarGate(dtype=dtype), lambda x, weight: weight * x),
    "tanh": (lambda dtype: ScalarGate(tanh=True, dtype=dtype), lambda x, weight: np.tanh(weight) * x),
}


def tokens(dtype, *shape):
    return np.random.default_rng(6).normal(size=(*shape, HIDDEN)).astype(DTYPES[dtype])


@pytest.mark.parametrize("shape", [(7,), (3, 5)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", GATES)
def test_gate(name, dtype, shape):
    make, formula = GATES[name]
    gate, x = make(dtype), tokens(dtype, *shape)
    weight = set_random(gate, dtype)["weight"]
    got = run_module(gate, {"x": x}, dtype)
    assert got.dtype == DTYPES[dtype]
    assert_close(got, formula(x.astype(np.float64), weight), dtype)


@covered(dtype=["float16", "bfloat16"], name=GATES)
def test_a_narrow_weight_beside_a_float32_stream(name, dtype):
    make, formula = GATES[name]
    gate, x = make(dtype), tokens("float32", 7)
    weight = set_random(gate, dtype)["weight"]
    got = run_module(gate, {"x": x}, dtype)
    assert got.dtype == np.float32
    assert_close(got, formula(x.astype(np.float64), weight), "float32")


@pytest.mark.parametrize(("name", "shape"), [("channel", (HIDDEN,)), ("scalar", (1,)), ("tanh", (1,))])
def test_the_only_parameter_is_the_weight(name, shape):
    gate = GATES[name][0]("bfloat16")
    assert {name: parameter.shape for name, parameter in gate.named_parameters()} == {"weight": shape}
