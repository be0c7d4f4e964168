"""Random networks: the engine stays within the rounding errors that the network's types explain."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, settings
from random_networks import LENGTHS, networks
from sampling import examples
from zoo.engine import EngineFailedError, network_and_engine, run

from trtllm_ext.oracle import OracleError, evaluate

BUDGET_S = 15

USUAL = settings(
    max_examples=examples(50),
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
LONG = settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)


@pytest.fixture(scope="module")
def trt():
    import trtllm_ext.embedded

    return trtllm_ext.embedded


def check(trt, drawn):
    note(repr(drawn))
    case = drawn.case()
    feeds = case.feeds()
    network, engine = network_and_engine(case, trt, feeds)
    for n, feed in zip(LENGTHS, feeds, strict=True):
        try:
            want = evaluate(network, trt, feed)
        except OracleError:
            assert n != LENGTHS[0]
            with pytest.raises(EngineFailedError):
                run(engine, trt, feed)
            continue
        got = run(engine, trt, feed)
        assert set(got) == set(want)
        for name, value in want.items():
            sketch = drawn.sketches[int(name[1:])]
            assert got[name].shape == value.shape == sketch.shape(n), (name, got[name].shape, value.shape)
            if value.dtype != np.float64:
                np.testing.assert_array_equal(got[name], value, err_msg=name)
                continue
            error = np.max(np.abs(got[name].astype(np.float64) - value), initial=0.0)
            # First-order bounds: twice, so that the neglected second order never matters.
            assert error <= 2 * sketch.error + 1e-30, (name, sketch, error)


@USUAL
@given(drawn=networks())
def test_random_networks(trt, drawn):
    check(trt, drawn)


@pytest.mark.long
@LONG
@given(drawn=networks(most_steps=40))
def test_many_random_networks(trt, drawn):
    check(trt, drawn)
