"""Layers that the oracle does not know: named, and gone around with values from elsewhere."""

import ml_dtypes
import numpy as np
import pytest

from trtllm_ext.oracle import Evaluator, OracleError, evaluate, opaque_layers, trace

BUDGET_S = 2

X = np.array([[-1.0, 2.0, -3.0]], np.float32)


@pytest.fixture
def doubled(trt, new_network):
    """y = exp(z), z the sum of x and x; the sum's output is called z."""
    network = new_network()
    x = network.add_input("x", trt.float32, (1, 3))
    total = network.add_elementwise(x, x, trt.ElementWiseOperation.SUM)
    total.name, total.get_output(0).name = "sum", "z"
    y = network.add_unary(total.get_output(0), trt.UnaryOperation.EXP).get_output(0)
    y.name = "y"
    network.mark_output(y)
    return network


@pytest.fixture
def unknown_sum(monkeypatch):
    """The oracle without elementwise layers, as it is without attention."""
    from trtllm_ext.oracle import kinds

    monkeypatch.delitem(kinds.KINDS, "ELEMENTWISE")


def test_given_values_stand_in_for_a_layer(trt, doubled):
    np.testing.assert_allclose(evaluate(doubled, trt, {"x": X})["y"], np.exp(2 * X))
    given = {"z": np.array([[1.0, 0.0, -1.0]], np.float32)}
    # Nothing in front of it is asked for, the input included.
    np.testing.assert_allclose(evaluate(doubled, trt, {}, given=given)["y"], np.exp(given["z"]))
    steps = {step.tensor: step for step in trace(doubled, trt, {}, given=given)}
    assert {name: step.is_given for name, step in steps.items()} == {"z": True, "y": False}
    assert steps["z"].layer == "sum"


def test_one_evaluator_answers_again_without_reading_the_network_again(trt, doubled):
    class Once:
        """The network, whose layers may be asked for once."""

        def __init__(self):
            self.asked = []

        def __getattr__(self, name):
            return getattr(doubled, name)

        def get_layer(self, index):
            self.asked.append(index)
            return doubled.get_layer(index)

    network = Once()
    evaluator = Evaluator(network, trt)
    given = {"z": np.array([[1.0, 0.0, -1.0]], np.float32)}
    # What was given at one time does not stay for the next.
    for _ in range(2):
        np.testing.assert_allclose(evaluator.evaluate({}, given=given)["y"], np.exp(given["z"]))
        np.testing.assert_allclose(evaluator.evaluate({"x": X})["y"], np.exp(2 * X))
        assert evaluator.evaluate({"x": X}, ["z"]).keys() == {"z"}
        assert [step.tensor for step in evaluator.trace({"x": X})] == ["x", "z", "y"]
    assert sorted(network.asked) == [0, 1]


def test_a_name_of_two_tensors_is_refused(trt, doubled):
    doubled.get_layer(0).get_output(0).name = "y"
    with pytest.raises(OracleError, match="'y': the network has 2 tensors of that name"):
        evaluate(doubled, trt, {"x": X}, ["y"])
    np.testing.assert_allclose(evaluate(doubled, trt, {"x": X})["y"], np.exp(2 * X))


def test_given_values_must_fit(trt, doubled):
    with pytest.raises(
        OracleError, match=r"Given tensor 'z' has shape \(3,\), but the network declares \(1, 3\)"
    ):
        evaluate(doubled, trt, {}, given={"z": X[0]})
    with pytest.raises(OracleError, match="'w': the network has no tensor of that name"):
        evaluate(doubled, trt, {"x": X}, given={"w": X})


def test_an_unknown_kind_is_named_and_gone_around(trt, doubled, unknown_sum):
    [opaque] = opaque_layers(doubled, trt)
    assert (opaque.layer, opaque.kind, opaque.outputs) == ("sum", "ELEMENTWISE", ("z",))
    with pytest.raises(
        OracleError, match=r"Layer 'sum': .* does not know the kind ELEMENTWISE.*values of its out"
    ):
        evaluate(doubled, trt, {"x": X})
    np.testing.assert_allclose(evaluate(doubled, trt, {}, given={"z": X})["y"], np.exp(X))


def test_weights_that_the_library_does_not_give_back_come_from_the_caller(trt, new_network, monkeypatch):
    values = np.array([1.5, -2.0], ml_dtypes.bfloat16)
    network = new_network()
    layer = network.add_constant((2,), trt.Weights(trt.bfloat16, values.ctypes.data, 2))
    layer.name, layer.get_output(0).name = "scale", "y"
    network.mark_output(layer.get_output(0))

    class Weights:
        """As TensorRT's bindings have it: no address, and `numpy()` gives the object itself for bfloat16."""

        dtype, size = trt.bfloat16, 2

        def numpy(self):
            return self

    monkeypatch.setattr(trt.IConstantLayer, "weights", property(lambda layer: Weights()))
    with pytest.raises(OracleError, match=r"2 weights of type BF16 .* weights=\{name: array\}"):
        evaluate(network, trt, {})
    np.testing.assert_array_equal(evaluate(network, trt, {}, weights={"scale": values})["y"], [1.5, -2.0])
