"""Oracle and lowering read a network through NVIDIA's bindings as they read the embedded engine's."""

import gc

import ml_dtypes
import numpy as np
import pytest
import zoo
from like_bindings import as_bindings, weights_of
from stack_forms import HIDDEN, TABLE, config_of
from zoo.engine import recording_logger

import trtllm_ext as tx
import trtllm_ext.embedded as embedded
from trtllm_ext.builder.trace import trace
from trtllm_ext.graph.known import known_of
from trtllm_ext.lowering import LoweringError, lower
from trtllm_ext.models import model_from_checkpoint, write_random_checkpoint
from trtllm_ext.oracle import OracleError, evaluate

BUDGET_S = 8


def is_default(number, case):
    """Every sixth; what is read by identity or has weights; of what may have weights of odd types every second."""

    def has(*words):
        return any(word in case.name for word in words)

    return number % 6 == 0 or has("loop", "if-", "weights") or (number % 2 == 1 and has("quant", "BF16"))


CASES = [
    pytest.param(case, marks=[] if is_default(number, case) else [pytest.mark.long])
    for number, case in enumerate(zoo.CASES)
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_network_reads_the_same(case):
    network = zoo.define(case, embedded, embedded.Builder(recording_logger(embedded)))
    trt, shown = as_bindings(network)
    weights = weights_of(network)
    assert _models(shown, trt, weights) == _models(network, embedded, {})
    feed = case.feeds()[0]
    want, got = _values(network, embedded, feed, {}), _values(shown, trt, feed, weights)
    assert type(want) is type(got)
    if isinstance(want, str):
        assert want == got
        return
    assert list(want) == list(got)
    for name, value in want.items():
        np.testing.assert_array_equal(got[name], value)


def _models(network, trt, weights):
    try:
        steps = lower(network, trt, weights=weights).steps
    except LoweringError as error:
        return str(error)
    return [
        (step.model.SerializeToString(deterministic=True), [bytes(weight.data) for weight in step.weights])
        if hasattr(step, "model")
        else type(step)
        for step in steps
    ]


def _values(network, trt, feed, weights):
    try:
        return evaluate(network, trt, feed, weights=weights)
    except OracleError as error:
        return str(error)


def test_wrappers_are_new_unless_one_lives_and_classes_must_be_changed():
    network = zoo.define(zoo.CASES[0], embedded, embedded.Builder(recording_logger(embedded)))
    trt, shown = as_bindings(network)
    layer = shown.get_layer(0)
    tensor = layer.get_output(0)
    assert layer.get_output(0) is tensor
    number = id(tensor)
    del tensor
    gc.collect()
    kept = [layer.get_output(0)]
    assert kept[0] is shown.get_layer(0).get_output(0) and number
    kind = type(layer)
    assert kind is trt.ILayer
    layer.__class__ = trt.IConstantLayer
    # The layer has another wrapper now, since this one is no ILayer any more.
    assert shown.get_layer(0) is not layer
    with pytest.raises(AttributeError):
        _ = shown.get_layer(0).weights


def test_what_functional_remembers_of_its_constants_is_enough(tmp_path):
    write_random_checkpoint(tmp_path, config_of(TABLE["every factor"], "bfloat16"))
    network = trace(model_from_checkpoint(tmp_path), tx.BuildConfig(max_num_tokens=8)).network
    trt, shown = as_bindings(network.trt_network)
    x = np.random.default_rng(0).normal(size=(3, HIDDEN)).astype(ml_dtypes.bfloat16)
    with pytest.raises(OracleError, match=r"weights of type BF16 give neither a numpy view nor an address"):
        evaluate(shown, trt, {"hidden_states": x})
    with pytest.raises(
        LoweringError, match=r"of type DataType.BF16 cannot be read .*weights=\{'SublayerStack/"
    ):
        lower(shown, trt)
    weights = known_of(network).weights
    want = evaluate(network.trt_network, embedded, {"hidden_states": x})["hidden_states_out"]
    got = evaluate(shown, trt, {"hidden_states": x}, weights=weights)["hidden_states_out"]
    np.testing.assert_array_equal(got, want)
    assert _models(shown, trt, weights) == _models(network.trt_network, embedded, {})
