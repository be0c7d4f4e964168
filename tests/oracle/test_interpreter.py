"""Whole networks: order, choice of tensors, errors, memory, depth."""

import numpy as np
import pytest
import zoo
from sampling import telling
from zoo.case import FLOATS, constant, made

from trtllm_ext.errors import BuildError
from trtllm_ext.oracle import CONTROL_KINDS, KINDS, OracleError, evaluate, trace

BUDGET_S = 8


@pytest.fixture
def two_steps(trt, new_network):
    network = new_network()
    x = network.add_input("x", trt.float32, (-1, 2))
    doubled = made(network.add_elementwise(x, x, trt.ElementWiseOperation.SUM))
    doubled.name = "doubled"
    result = made(network.add_unary(doubled, trt.UnaryOperation.NEG))
    result.name = "result"
    network.mark_output(result)
    return network


X = np.array([[1.0, 2.0]], np.float32)


def test_outputs_by_default_and_any_tensor_by_name(trt, two_steps):
    assert list(evaluate(two_steps, trt, {"x": X})) == ["result"]
    both = evaluate(two_steps, trt, {"x": X}, wanted=["doubled", "x"])
    assert set(both) == {"doubled", "x"}
    assert both["doubled"].tolist() == [[2, 4]]
    assert both["x"].dtype == np.float64


def test_trace_gives_every_tensor_in_order(trt, two_steps):
    steps = list(trace(two_steps, trt, {"x": X}))
    assert [step.tensor for step in steps] == ["x", "doubled", "result"]
    assert [step.kind for step in steps] == ["INPUT", "ELEMENTWISE", "UNARY"]
    assert steps[0].layer == ""
    assert steps[2].layer == two_steps.get_layer(1).name
    assert steps[2].value.tolist() == [[-2, -4]]


def test_layers_that_nothing_wanted_depends_on_are_left_out(trt, two_steps):
    layer = two_steps.add_slice(two_steps.get_input(0), (0, 0), (9, 9), (1, 1))
    assert layer is not None
    assert evaluate(two_steps, trt, {"x": X})["result"].shape == (1, 2)


def test_order_of_creation_means_nothing(trt, new_network):
    network = new_network()
    x = network.add_input("x", trt.float32, (2, 3))
    last = network.add_shuffle(x)
    shape = made(network.add_shape(x))
    flipped = made(network.add_gather(shape, constant(network, trt, np.array([1, 0]), "INT32"), 0))
    last.set_input(1, flipped)
    network.mark_output(made(last))
    (got,) = evaluate(network, trt, {"x": np.zeros((2, 3), np.float32)}).values()
    assert got.shape == (3, 2)


def test_a_cycle_is_named(trt, new_network):
    network = new_network()
    x = network.add_input("x", trt.float32, (2,))
    first = network.add_elementwise(x, x, trt.ElementWiseOperation.SUM)
    second = network.add_elementwise(made(first), x, trt.ElementWiseOperation.SUM)
    first.name = "the first"
    network.mark_output(made(second))
    first.set_input(1, made(second))
    with pytest.raises(OracleError, match=r"cycle.*the first"):
        evaluate(network, trt, {"x": np.zeros(2, np.float32)})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "'x' is missing"),
        ({"y": X}, "'x' is missing. Given: y"),
        ({"x": X[0]}, r"shape \(2,\), but the network declares \(-1, 2\)"),
        ({"x": np.zeros((1, 3), np.float32)}, r"shape \(1, 3\)"),
        ({"x": np.zeros((1, 2), np.int32)}, "int32, but the network declares FLOAT"),
        ({"x": np.zeros((1, 2), np.complex64)}, "complex64"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(trt, two_steps, given, message):
    with pytest.raises(OracleError, match=message):
        evaluate(two_steps, trt, given)


def test_unknown_tensors_are_refused(trt, two_steps):
    with pytest.raises(OracleError, match="'nowhere'"):
        evaluate(two_steps, trt, {"x": X}, wanted=["nowhere"])


def test_a_network_without_outputs_is_refused(trt, new_network):
    with pytest.raises(OracleError, match="no outputs"):
        evaluate(new_network(), trt, {})


def test_unknown_kinds_are_refused_by_name(trt, two_steps, monkeypatch):
    monkeypatch.delitem(KINDS, "UNARY")
    two_steps.get_layer(1).name = "negation"
    with pytest.raises(OracleError, match=r"'negation'.*UNARY") as caught:
        evaluate(two_steps, trt, {"x": X})
    assert isinstance(caught.value, BuildError)


def test_integer_division_by_zero_is_refused(trt, oracle):
    x = np.array([1, 2], np.int32)
    with pytest.raises(OracleError, match="division by zero"):
        oracle(lambda n, a, b: made(n.add_elementwise(a, b, trt.ElementWiseOperation.DIV)), x, x * 0)


def test_a_cast_of_what_no_integer_stands_for_is_refused(trt, oracle):
    for value in (np.nan, np.inf, 3e10):
        with pytest.raises(OracleError, match="INT32"):
            oracle(lambda n, x: made(n.add_cast(x, trt.int32)), np.array([value], np.float32))


def test_integer_inputs_of_another_width_are_taken_if_they_fit(trt, new_network):
    network = new_network()
    x = network.add_input("x", trt.int32, (1,))
    network.mark_output(made(network.add_identity(x)))
    (got,) = evaluate(network, trt, {"x": np.array([5], np.int64)}).values()
    assert got.dtype == np.int32
    with pytest.raises(OracleError, match="int64"):
        evaluate(network, trt, {"x": np.array([2**40], np.int64)})


def test_depth_is_no_limit(trt, new_network):
    network = new_network()
    x = network.add_input("x", trt.float32, (1,))
    for _ in range(3000):
        x = made(network.add_unary(x, trt.UnaryOperation.NEG))
    network.mark_output(x)
    (got,) = evaluate(network, trt, {"x": np.array([1.0], np.float32)}).values()
    assert got.tolist() == [1.0]


def test_an_activation_layer_keeps_its_kind(trt, new_network):
    """IActivationLayer.type is the activation's, not the layer's: reading one must not hide the other."""
    network = new_network()
    x = network.add_input("x", trt.float32, (1,))
    layer = network.add_activation(x, trt.ActivationType.RELU)
    network.mark_output(made(layer))
    for _ in range(2):
        assert [s.kind for s in trace(network, trt, {"x": np.ones(1, np.float32)})] == ["INPUT", "ACTIVATION"]


def test_the_oracle_knows_what_the_zoo_uses(trt, builder):
    used = set()
    for case in zoo.CASES:
        network = zoo.define(case, trt, builder)
        used |= {
            str(trt.ILayer.type.__get__(network.get_layer(i))).split(".")[1]
            for i in range(network.num_layers)
        }
    # The zoo's networks are for one rank; test_oracle_collectives.py is about those for several.
    assert used | {"DIST_COLLECTIVE"} == set(KINDS) | CONTROL_KINDS
    assert "DIST_COLLECTIVE" not in used


def tensors_of(network):
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    return [layer.get_output(i) for layer in layers for i in range(layer.num_outputs)]


# What a tensor inside a loop or a conditional is at any one time has no answer from outside.
INSIDE = {case.name for case in zoo.control.cases()}
WHOLE = [case for case in zoo.CASES if case.name not in INSIDE]
HELD = dict.fromkeys((*FLOATS, "FP8"), np.dtype(np.float64)) | {"INT4": np.dtype(np.int8)}


@pytest.mark.parametrize("case", telling(WHOLE), ids=str)
def test_every_tensor_of_the_zoo_is_as_declared(trt, builder, case):
    """The network infers types and shapes by its own rules; every value has to fit them."""
    network = zoo.define(case, trt, builder)
    declared = {tensor.name: tensor for tensor in tensors_of(network)}
    for feed in case.feeds():
        values = evaluate(network, trt, feed, wanted=list(declared))
        assert set(values) == set(declared)
        for name, value in values.items():
            shape = tuple(declared[name].shape)
            assert len(shape) == value.ndim, name
            assert all(want in (-1, have) for want, have in zip(shape, value.shape, strict=True)), name
            type_name = str(declared[name].dtype).split(".")[1]
            assert value.dtype == (HELD.get(type_name) or zoo.NUMPY[type_name]), name
