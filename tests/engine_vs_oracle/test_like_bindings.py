"""Oracle and lowering read a network through NVIDIA's bindings as they read the embedded engine's."""

import gc

import numpy as np
import pytest
import zoo
from like_bindings import as_bindings, weights_of
from zoo.engine import recording_logger

import trtllm_ext.embedded as embedded
from trtllm_ext.lowering import LoweringError, lower
from trtllm_ext.oracle import OracleError, evaluate

BUDGET_S = 8


@pytest.mark.parametrize("case", zoo.CASES, ids=str)
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
