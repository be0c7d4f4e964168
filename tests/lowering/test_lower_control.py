"""Loops and conditionals as ONNX nodes: against numpy and torch, on every level of optimisation, in both load modes."""

import itertools

import ml_dtypes
import numpy as np
import pytest
import torch
from lowered_net import LEVELS, NUMPY, Net, run_segment
from sampling import covered

import trtllm_ext.embedded as trt
from trtllm_ext.embedded.running.sessions import SharedWeight, open_session

BUDGET_S = 6
OPS = trt.ElementWiseOperation
LAST, ALL, BACK = trt.LoopOutput.LAST_VALUE, trt.LoopOutput.CONCATENATE, trt.LoopOutput.REVERSE


def counted(net, x, axis):
    """A loop over an axis of x, the count as a tensor, the slice."""
    count = net.op("shuffle", net.op("slice", net.op("shape", x), (axis,), (1,), (1,)), reshape_dims=())
    loop = net.network.add_loop()
    loop.add_trip_limit(count, trt.TripLimit.COUNT)
    return loop, count


def cell(type_name, batch=-1):
    """h = tanh(x W^T + h U^T + b) over axis 1, with the numbers for torch."""
    net, rng = Net(), np.random.default_rng(7)
    w, u = (rng.normal(0, 0.3, shape).astype(NUMPY[type_name]) for shape in ((32, 8), (32, 32)))
    b = rng.normal(0, 0.3, (1, 32)).astype(NUMPY[type_name])
    x, first = net.input("x", type_name, (batch, -1, 8)), net.input("h", type_name, (batch, 32))
    loop, steps = counted(net, x, 1)
    state = loop.add_recurrence(first)
    step = loop.add_iterator(x, 1).get_output(0)
    none, turned = trt.MatrixOperation.NONE, trt.MatrixOperation.TRANSPOSE
    mixed = net.op("matrix_multiply", step, none, net.constant(w), turned)
    kept = net.op("matrix_multiply", state.get_output(0), none, net.constant(u), turned)
    total = net.op("elementwise", net.op("elementwise", mixed, kept, OPS.SUM), net.constant(b), OPS.SUM)
    after = net.op("activation", total, trt.ActivationType.TANH)
    state.set_input(1, after)
    collected = loop.add_loop_output(after, ALL, 1)
    collected.set_input(1, steps)
    net.mark(collected.get_output(0))
    net.mark(loop.add_loop_output(state.get_output(0), LAST).get_output(0), "last")
    reference = torch.nn.RNN(8, 32, batch_first=True)
    with torch.no_grad():
        for name, array in (("weight_ih_l0", w), ("weight_hh_l0", u), ("bias_ih_l0", b[0])):
            getattr(reference, name).copy_(torch.from_numpy(array.astype(np.float32)))
        reference.bias_hh_l0.zero_()
    return net, reference


@pytest.mark.parametrize("type_name", ["FLOAT", "HALF", "BF16"])
def test_recurrent_cell_is_torch_s(type_name):
    net, reference = cell(type_name)
    segment = net.segment()
    rng = np.random.default_rng(3)
    for (batch, steps), level in itertools.product(((3, 6), (1, 1)), LEVELS):
        x = rng.normal(size=(batch, steps, 8)).astype(NUMPY[type_name])
        h = rng.normal(size=(batch, 32)).astype(NUMPY[type_name])
        got = run_segment(segment, {"x": x, "h": h}, level)
        with torch.no_grad():
            want, last = reference(
                torch.from_numpy(x.astype(np.float32)), torch.from_numpy(h.astype(np.float32))[None]
            )
        atol = {"FLOAT": 1e-6, "HALF": 4e-3, "BF16": 4e-2}[type_name]
        np.testing.assert_allclose(got["y"].astype(np.float32), want.numpy(), rtol=0, atol=atol)
        np.testing.assert_allclose(got["last"].astype(np.float32), last[0].numpy(), rtol=0, atol=atol)
    empty = run_segment(segment, {"x": np.zeros((2, 0, 8), NUMPY[type_name]), "h": h[:1].repeat(2, 0)})
    assert empty["y"].shape == (2, 0, 32)
    assert np.array_equal(empty["last"], h[:1].repeat(2, 0))


def test_a_loop_is_one_node_and_what_does_not_change_is_cast_once():
    """Weights are initializers of the main graph, shared by pointer; casts of them and of outer values lie there."""
    net = Net()
    x, y = net.input("x", "HALF", (-1, 200)), net.input("added", "HALF", (1, 200))
    loop = net.network.add_loop()
    loop.add_trip_limit(net.constant(np.array(2, np.int32)), trt.TripLimit.COUNT)
    state = loop.add_recurrence(x)
    none = trt.MatrixOperation.NONE
    weight = net.constant(np.full((200, 200), 2**-8, np.float16))
    product = net.op("matrix_multiply", state.get_output(0), none, weight, none)
    state.set_input(1, net.op("elementwise", product, y, OPS.SUM))
    net.mark(loop.add_loop_output(state.get_output(0), LAST).get_output(0))
    segment = net.segment()
    (node,) = [node for node in segment.model.graph.node if node.op_type == "Loop"]
    body = next(attribute.g for attribute in node.attribute if attribute.name == "body")
    assert not body.initializer and [weight.shape for weight in segment.weights] == [(200, 200)]
    outside = [node.input[0] for node in segment.model.graph.node if node.op_type == "Cast"]
    assert outside == [segment.weights[0].name, "added"]
    made = {name for node in body.node for name in node.output} | {info.name for info in body.input}
    assert all(node.input[0] in made for node in body.node if node.op_type == "Cast")
    for level in LEVELS:
        got = run_segment(
            segment, {"x": np.ones((3, 200), np.float16), "added": np.zeros((1, 200), np.float16)}, level
        )
        assert np.array_equal(got["y"], np.full((3, 200), 0.78125**2, np.float16)), level


@covered(mode=["prepack", "mapped"], type_name=["FLOAT", "HALF"])
def test_load_modes(mode, type_name):
    net, reference = cell(type_name)
    segment = net.segment()
    model = segment.model.SerializeToString()
    shared = [SharedWeight(one.name, one.onnx_type, one.shape, one.data) for one in segment.weights]
    session = open_session(model, shared, mode, threads=1).session
    x = np.full((2, 3, 8), 0.5, NUMPY[type_name])
    h = np.zeros((2, 32), NUMPY[type_name])
    got = dict(zip(("y", "last"), session.run(["y", "last"], {"x": x, "h": h}), strict=True))
    with torch.no_grad():
        want, _ = reference(torch.from_numpy(x.astype(np.float32)))
    np.testing.assert_allclose(got["y"].astype(np.float32), want.numpy(), rtol=0, atol=4e-3)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("kind", "reverse"), list(itertools.product((ALL, BACK), (False, True))))
def test_cumulative_sums(level, kind, reverse):
    net = Net()
    x = net.input("x", "INT32", (-1, -1, -1))
    loop, count = counted(net, x, 1)
    zero = net.op("reduce", net.op("elementwise", x, x, OPS.SUB), trt.ReduceOperation.SUM, 2, False)
    state = loop.add_recurrence(zero)
    total = net.op(
        "elementwise", loop.add_iterator(x, 1, reverse).get_output(0), state.get_output(0), OPS.SUM
    )
    state.set_input(1, total)
    layer = loop.add_loop_output(total, kind, 2)
    layer.set_input(1, count)
    net.mark(layer.get_output(0))
    segment = net.segment()
    for shape in ((2, 4, 3), (1, 1, 1), (2, 0, 3), (0, 4, 3)):
        x = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
        want = np.cumsum(x[:, ::-1] if reverse else x, 1)
        want = np.moveaxis(want[:, ::-1] if kind == BACK else want, 1, 2)
        got = run_segment(segment, {"x": x}, level)["y"]
        assert got.shape == want.shape and np.array_equal(got, want), shape


@covered(type_name=["FLOAT", "HALF", "BF16", "INT32", "INT64", "BOOL"], trips=[0, 2, 5])
def test_a_length_other_than_the_trips(type_name, trips):
    """Three values: zeros follow after an early end, and what is more is left out."""
    net = Net()
    x, count = net.input("x", type_name, (-1, 2)), net.input("count", "INT32", ())
    loop = net.network.add_loop()
    loop.add_trip_limit(count, trt.TripLimit.COUNT)
    three = net.constant(np.array(3, np.int32))
    slices = loop.add_iterator(x).get_output(0)
    for name, kind in (("y", ALL), ("z", BACK)):
        layer = loop.add_loop_output(slices, kind)
        layer.set_input(1, three)
        net.mark(layer.get_output(0), name)
    x = (np.arange(10).reshape(5, 2) % 7 + 1).astype(NUMPY[type_name])
    got = net.run({"x": x, "count": np.array(trips, np.int32)})
    for name, values in (("y", x[:trips]), ("z", x[:trips][::-1])):
        want = np.zeros((3, 2), NUMPY[type_name])
        want[: min(trips, 3)] = values[:3]
        assert np.array_equal(got[name], want), (name, got[name], want)


@pytest.mark.parametrize("type_name", ["FLOAT", "BF16"])
def test_no_iteration_and_lengths_that_only_an_iteration_tells(type_name):
    """The sum may broadcast either way, so that its length follows from no input alone."""
    net = Net()
    x, h = net.input("x", type_name, (-1, -1, 2)), net.input("h", type_name, (-1, 1))
    loop, count = counted(net, x, 0)
    total = net.op("elementwise", loop.add_iterator(x).get_output(0), h, OPS.SUM)
    layer = loop.add_loop_output(total, ALL, 1)
    layer.set_input(1, count)
    net.mark(layer.get_output(0))
    segment = net.segment()
    for (trips, rows, others), level in itertools.product(((0, 3, 1), (0, 1, 4), (2, 3, 3)), LEVELS):
        x, h = np.ones((trips, rows, 2), NUMPY[type_name]), np.ones((others, 1), NUMPY[type_name])
        got = run_segment(segment, {"x": x, "h": h}, level)["y"]
        assert np.array_equal(got, np.full((max(rows, others), trips, 2), 2, got.dtype)), got.shape


def test_bits_are_rounded_in_each_iteration():
    """1 + 2^-11 rounds back to 1 in float16, however often it is added; in float32 it would not."""
    net = Net()
    x = net.input("x", "HALF", (1,))
    loop = net.network.add_loop()
    loop.add_trip_limit(net.constant(np.array(100, np.int64)), trt.TripLimit.COUNT)
    state = loop.add_recurrence(x)
    small = net.constant(np.array([2.0**-11], np.float16))
    state.set_input(1, net.op("elementwise", state.get_output(0), small, OPS.SUM))
    net.mark(loop.add_loop_output(state.get_output(0), LAST).get_output(0))
    for level in LEVELS:
        got = net.run({"x": np.ones(1, np.float16)}, level)
        assert got["y"] == 1.0, level


def test_weakly_typed_recurrences_keep_the_type_of_the_initial_value():
    net = Net(strongly_typed=False)
    x, y = net.input("x", "HALF", (2,)), net.input("y", "FLOAT", (2,))
    loop = net.network.add_loop()
    loop.add_trip_limit(net.constant(np.array(3, np.int32)), trt.TripLimit.COUNT)
    state = loop.add_recurrence(x)
    state.set_input(1, net.op("elementwise", state.get_output(0), y, OPS.SUM))
    net.mark(loop.add_loop_output(state.get_output(0), LAST).get_output(0), "last")
    got = net.run({"x": np.array([1, 2], np.float16), "y": np.array([0.5, 1], np.float32)})
    assert got["last"].dtype == np.float16 and got["last"].tolist() == [2.5, 5]


def test_an_untaken_branch_does_not_run_and_a_shared_layer_runs_once():
    net = Net()
    x, condition = net.input("x", "INT32", (2,)), net.input("condition", "BOOL", ())
    shared = net.op("elementwise", x, x, OPS.SUM)
    choice = net.network.add_if_conditional()
    choice.set_condition(condition)
    divided = net.op("elementwise", choice.add_input(shared).get_output(0), x, OPS.DIV)
    negative = net.op("unary", choice.add_input(shared).get_output(0), trt.UnaryOperation.NEG)
    net.mark(choice.add_output(divided, negative).get_output(0))
    segment = net.segment()
    assert [node.op_type for node in segment.model.graph.node] == ["Add", "If"]
    for level in LEVELS:
        by_zero = {"x": np.array([3, 0], np.int32), "condition": np.array(False)}
        assert run_segment(segment, by_zero, level)["y"].tolist() == [-6, 0]
        fine = {"x": np.array([3, 5], np.int32), "condition": np.array(True)}
        assert run_segment(segment, fine, level)["y"].tolist() == [2, 2]


def test_a_branch_may_give_what_it_gets_and_a_constant_condition_leaves_no_if():
    net = Net()
    x = net.input("x", "FLOAT", (2,))
    choice = net.network.add_if_conditional()
    choice.set_condition(net.op("cast", net.constant(np.array(1, np.int32)), trt.bool))
    net.mark(choice.add_output(x, net.constant(np.zeros(2, np.float32))).get_output(0))
    dynamic = net.network.add_if_conditional()
    dynamic.set_condition(net.input("condition", "BOOL", ()))
    net.mark(dynamic.add_output(x, x).get_output(0), "same")
    net.mark(dynamic.add_output(net.constant(np.ones(2, np.float32)), x).get_output(0), "z")
    for condition, want in ((True, [1, 1]), (False, [3, 4])):
        got = net.run({"x": np.array([3, 4], np.float32), "condition": np.array(condition)})
        assert (got["y"].tolist(), got["same"].tolist(), got["z"].tolist()) == ([3, 4], [3, 4], want)


def test_tensors_inside_do_not_take_the_names_of_others():
    """Names of a network need not differ inside; those of a model must."""
    net = Net()
    x = net.input("x", "FLOAT", (3,))
    loop = net.network.add_loop()
    loop.add_trip_limit(net.constant(np.array(2, np.int32)), trt.TripLimit.COUNT)
    state = loop.add_recurrence(x)
    after = net.op("elementwise", state.get_output(0), x, OPS.SUM)
    before = net.op("elementwise", x, x, OPS.PROD)
    state.get_output(0).name = after.name = before.name = loop.name = "same"
    state.set_input(1, after)
    result = loop.add_loop_output(state.get_output(0), LAST).get_output(0)
    net.mark(net.op("elementwise", result, before, OPS.SUM))
    got = net.run({"x": np.array([1, 2, 3], np.float32)})
    assert got["y"].tolist() == [4, 10, 18]


def test_networks_without_loops_are_what_they_were():
    """Views of layers stay views of layers, and nothing is put aside."""
    net = Net()
    x = net.input("x", "BF16", (2,))
    net.mark(net.op("elementwise", x, x, OPS.SUM))
    assert [node.op_type for node in net.segment().model.graph.node] == ["Cast", "Add", "Cast"]
    assert net.run({"x": np.ones(2, ml_dtypes.bfloat16)})["y"].tolist() == [2, 2]


def test_outputs_of_one_conditional_may_lie_in_a_loop_and_outside():
    """One is needed in the loop, one before it, and one that reads the recurrence by nobody."""
    net = Net()
    x = net.input("x", "FLOAT", (2,))
    choice = net.network.add_if_conditional()
    choice.set_condition(net.input("condition", "BOOL", ()))
    loop = net.network.add_loop()
    loop.add_trip_limit(net.constant(np.array(2, np.int32)), trt.TripLimit.COUNT)
    before = choice.add_output(x, net.op("elementwise", x, x, OPS.SUM)).get_output(0)
    state = loop.add_recurrence(before)
    value = state.get_output(0)
    assert choice.add_output(value, x) is not None
    inside = choice.add_output(net.op("elementwise", value, x, OPS.SUM), value).get_output(0)
    state.set_input(1, net.op("elementwise", inside, before, OPS.SUM))
    net.mark(loop.add_loop_output(value, LAST).get_output(0))
    for condition, want in ((True, [5, 10]), (False, [6, 12])):
        got = net.run({"x": np.array([1, 2], np.float32), "condition": np.array(condition)})
        assert got["y"].tolist() == want
