"""Plugins in the oracle: what they compute comes with the call, or they are refused by name."""

import numpy as np
import pytest
from sample_plugins import Bench, CircularPad, Extremes, circular_pad, run

import trtllm_ext.embedded as trt
from trtllm_ext.oracle import OracleError, evaluate

BUDGET_S = 4


@pytest.fixture
def bench():
    bench = Bench()
    low, high, place = bench.plugin(Extremes(), bench.relu(bench.input("x", (-1, 4))))
    bench.output(bench.network.add_elementwise(low, high, trt.ElementWiseOperation.SUM).get_output(0), "sum")
    bench.output(place, "place")
    return bench


def extremes(x):
    return x.min(1), x.max(1), x.argmax(1)


def test_a_plugin_is_what_its_function_says_and_the_engine_agrees(bench):
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    want = evaluate(bench.network, trt, {"x": x}, plugins={"Extremes": extremes})
    assert want["sum"].dtype == np.float64 and want["place"].dtype == np.int32
    context = bench.context(bench.build({"x": ((1, 4), (2, 4), (8, 4))}), Extremes)
    got = run(context, {"x": x})
    np.testing.assert_array_equal(got["place"], want["place"])
    np.testing.assert_allclose(got["sum"], want["sum"], rtol=1e-6)


def test_a_plugin_without_a_function_is_refused_by_name(bench):
    with pytest.raises(OracleError, match=r"what plugin 'Extremes' computes is not known; give a function"):
        evaluate(bench.network, trt, {"x": np.zeros((1, 4), np.float32)})
    with pytest.raises(OracleError, match="gives 1 arrays for 3 outputs"):
        evaluate(bench.network, trt, {"x": np.zeros((1, 4), np.float32)}, plugins={"Extremes": lambda x: x})


def test_fields_are_the_business_of_the_function():
    bench = Bench()
    (y,) = bench.plugin(CircularPad(CircularPad.fields_of(1, 2)), bench.input("x", (2, 3)))
    bench.output(y, "y")
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    meaning = {"CircularPad": lambda x: circular_pad(x, (1, 2))}
    np.testing.assert_array_equal(
        evaluate(bench.network, trt, {"x": x}, plugins=meaning)["y"], circular_pad(x, (1, 2))
    )
