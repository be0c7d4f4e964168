"""Layers that pick or place elements: inferred shapes and types, what is refused with which words, attributes."""

import numpy as np
import pytest
from defining import add_constant, add_input, errors_of, new_network, shape_of

import trtllm_ext.embedded as trt
from trtllm_ext.embedded.rules import infer
from trtllm_ext.embedded.rules.known import Known, RuleError

BUDGET_S = 4
MAX, ELEMENT, ND = trt.TopKOperation.MAX, trt.ScatterMode.ELEMENT, trt.ScatterMode.ND


def check(network, layer, expected):
    """`expected` is a shape, or a part of the words that the layer is refused with, now or later."""
    if layer is None:
        outcome = errors_of(network)[-1]
    else:
        known = layer.get_output(0)._known()
        outcome = layer._node.error if known is None else known.shape
    if isinstance(expected, str):
        assert isinstance(outcome, str) and expected in outcome, outcome
    else:
        assert outcome == expected


@pytest.mark.parametrize(
    ("shape", "k", "axes", "expected"),
    [
        ((3, 5), 2, 0b10, (3, 2)),
        ((3, 5), 3, 0b01, (3, 5)),
        ((-1, 5), 5, 0b10, (-1, 5)),
        ((-1, -1), 7, 0b01, (7, -1)),
        ((0, 5), 1, 0b10, (0, 1)),
        ((9,), 4, 1, (4,)),
        ((2, 1, 1, 1, 4000), 3840, 1 << 4, (2, 1, 1, 1, 3840)),
        ((3, 5), 6, 0b10, "k is 6, but the dimension has only 5 elements"),
        ((3, 5), 0, 0b10, "k is 0; it must be 1 to 3840"),
        ((3, 4000), 3841, 0b10, "it must be 1 to 3840"),
        ((3, 5), 1, 0b11, "axes 0x3 must name one dimension"),
        ((3, 5), 1, 0, "must have at least one bit set"),
        ((3, 5), 1, 0b100, "none beyond bit 1"),
        ((2, 1, 1, 1, 1), 1, 1, "one of the last 4 of a tensor of shape (2, 1, 1, 1, 1)"),
        ((), 1, 1, "the input is a scalar"),
    ],
)
def test_topk(shape, k, axes, expected):
    network = new_network()
    layer = network.add_topk(add_input(network, shape), MAX, k, axes)
    check(network, layer, expected)
    if layer is not None and not isinstance(expected, str):
        assert shape_of(layer.get_output(1)) == expected
        assert layer.get_output(1).dtype == trt.int32


def test_types_of_topk():
    network = new_network()
    for dtype in (trt.float32, trt.float16, trt.bfloat16, trt.int32, trt.int64):
        layer = network.add_topk(add_input(network, (4,), dtype), MAX, 1, 1, trt.int64)
        assert [layer.get_output(index).dtype for index in range(2)] == [dtype, trt.int64]
    check(network, network.add_topk(add_input(network, (4,), trt.bool), MAX, 1, 1), "does not take BOOL")
    check(network, network.add_topk(add_input(network, (4,)), MAX, 1, 1, trt.float32), "INT32 or INT64")


def test_k_as_an_input_rules_until_k_is_set():
    network = new_network()
    x, k = add_input(network, (-1, 5)), add_input(network, (), trt.int32, "k")
    layer = network.add_topk(x, MAX, 2, 2)
    assert layer.k == 2 and layer.num_inputs == 1
    layer.set_input(1, k)
    assert layer.k == -1 and shape_of(layer.get_output(0)) == (-1, -1) and k.is_shape_tensor
    layer.set_input(1, add_constant(network, 4, np.int32))
    assert shape_of(layer.get_output(1)) == (-1, 4)
    layer.set_input(1, add_constant(network, 6, np.int32))
    assert layer.get_output(0)._known() is None and "only 5" in layer._node.error
    layer.k = 3
    assert layer.k == 3 and layer.get_input(1) is None and shape_of(layer.get_output(0)) == (-1, 3)
    layer.set_input(1, add_constant(network, [4], np.int32))
    check(network, layer, "k (input 1) must be a scalar")
    layer.set_input(1, add_input(network, ()))
    check(network, layer, "k (input 1) does not take FLOAT")


def test_attributes_of_topk_and_non_zero():
    network = new_network()
    x = add_input(network, (3, 5))
    topk, non_zero = network.add_topk(x, MAX, 2, 1), network.add_non_zero(x)
    assert (topk.op, topk.axes, topk.indices_type, non_zero.indices_type) == (MAX, 1, trt.int32, trt.int32)
    assert topk.num_outputs == 2 and topk.name == "(Unnamed Layer* 0) [TopK]"
    topk.op, topk.axes = trt.TopKOperation.MIN, 2
    assert shape_of(topk.get_output(0)) == (3, 2)
    for layer, index in ((topk, 1), (non_zero, 0)):
        layer.indices_type = trt.int64
        assert layer.indices_type == layer.get_output(index).dtype == trt.int64
        layer.indices_type = trt.float16
        assert layer.indices_type == trt.int64
        assert "indices_type must be INT32 or INT64, not HALF" in errors_of(network)[-1]
        with pytest.raises(TypeError):
            layer.indices_type = "int64"
    with pytest.raises(TypeError):
        network.add_topk(x, "MAX", 1, 1)


@pytest.mark.parametrize("shape", [(3, 5), (-1,), (0, 2), ()])
def test_non_zero_tells_its_length_at_run_time_only(shape):
    network = new_network()
    for dtype in (trt.bool, trt.float16, trt.int64):
        layer = network.add_non_zero(add_input(network, shape, dtype))
        check(network, layer, (len(shape), -1))
        assert layer.get_output(0).dtype == trt.int32
    constant = network.add_non_zero(add_constant(network, [1, 0, 1]))
    check(network, constant, (1, -1))


@pytest.mark.parametrize(
    ("mode", "axis", "data", "indices", "updates", "expected"),
    [
        (ELEMENT, 0, (3, 4), (5, 2), (5, 2), (3, 4)),
        (ELEMENT, 1, (-1, 4), (2, 9), (-1, 9), (-1, 4)),
        (ELEMENT, 0, (3, 4), (5, 5), (5, 5), "reach beyond data of shape (3, 4) in dimension 1"),
        (ELEMENT, 0, (3, 4), (5,), (5,), "must have one rank"),
        (ELEMENT, 0, (3, 4), (1, 2), (1, 3), "must have one shape, but theirs are (1, 2) and (1, 3)"),
        (ELEMENT, 2, (3, 4), (1, 2), (1, 2), "axis 2 is out of range"),
        (ELEMENT, -1, (3, 4), (1, 2), (1, 2), "axis -1 is out of range"),
        (ND, 7, (3, 4), (5, 2), (5,), (3, 4)),
        (ND, 0, (3, 4), (5, 1), (5, 4), (3, 4)),
        (ND, 0, (3, 4), (2,), (), (3, 4)),
        (ND, 0, (-1, 4), (-1, 6, 1), (2, -1, 4), (-1, 4)),
        (ND, 0, (3, 4), (5, 3), (5,), "must be 1 to 2 for data of shape (3, 4)"),
        (ND, 0, (3, 4), (5, 0), (5, 3, 4), "must be 1 to 2"),
        (ND, 0, (3, 4), (5, -1), (5,), "the last length of indices must be known"),
        (ND, 0, (3, 4), (5, 1), (5, 3), "updates must have the shape (5, 4)"),
        (ND, 0, (3, 4), (5, 2), (5, 1), "updates must have the shape (5,)"),
        (ND, 0, (3, 4), (), (5,), "at least 1-D"),
        (ND, 0, (), (1,), (1,), "nothing to scatter into a scalar"),
    ],
)
def test_scatter(mode, axis, data, indices, updates, expected):
    network = new_network()
    layer = network.add_scatter(
        add_input(network, data),
        add_input(network, indices, trt.int32),
        add_input(network, updates),
        mode,
    )
    if layer is not None:
        assert layer.axis == 0 and layer.mode == mode
        layer.axis = axis
    check(network, layer, expected)


def test_types_of_scatter():
    network, weak = new_network(), new_network(strongly_typed=False)
    for net, expected in ((network, "incompatible input types"), (weak, (3,))):
        tensors = [
            add_input(net, (3,), dtype, name)
            for name, dtype in (("data", trt.float32), ("at", trt.int64), ("new", trt.float16))
        ]
        check(net, net.add_scatter(*tensors, ELEMENT), expected)
    x = add_input(network, (3,))
    check(network, network.add_scatter(x, x, x, ELEMENT), "the indices (input 1) does not take FLOAT")
    flag, at = add_input(network, (3,), trt.bool), add_input(network, (3,), trt.int32)
    check(network, network.add_scatter(flag, at, flag, ELEMENT), "scatter does not take BOOL")


@pytest.mark.parametrize(
    ("indices", "depth", "axis", "expected"),
    [
        ((2, 3), 5, -1, (2, 3, 5)),
        ((2, 3), 5, 0, (5, 2, 3)),
        ((-1, 3), 5, -2, (-1, 5, 3)),
        ((), 5, 0, (5,)),
        ((2,), 5, 2, "axis 2 is out of range; with indices of rank 1 it may be -2 to 1"),
        ((2,), 0, 0, "the depth (input 2) is 0; it must be positive"),
        ((2,), -3, 0, "it must be positive"),
        ((2,), [5], 0, "the depth (input 2) must be a scalar"),
        ((1,) * 8, 5, 0, "no room for one more dimension"),
    ],
)
def test_one_hot(indices, depth, axis, expected):
    network = new_network()
    values = add_constant(network, [0, 1], np.float32)
    at = add_input(network, indices, trt.int32)
    check(network, network.add_one_hot(at, values, add_constant(network, depth, np.int32), axis), expected)


def test_one_hot_wants_a_constant_depth_and_two_values():
    network = new_network()
    at, pair = add_input(network, (3,), trt.int32), add_constant(network, [0, 1], np.float32)
    depth = add_input(network, (), trt.int32)
    layer = network.add_one_hot(at, pair, depth, -1)
    check(network, layer, "must be known when the network is built")
    layer.set_input(2, add_constant(network, 4))
    assert shape_of(layer.get_output(0)) == (3, 4) and layer.axis == -1
    three = add_constant(network, [0, 1, 2], np.float32)
    check(network, network.add_one_hot(at, three, depth, -1), "must be two, off and on")
    check(network, network.add_one_hot(pair, pair, depth, -1), "the indices (input 0) does not take FLOAT")


@pytest.mark.parametrize(
    ("shape", "axis", "expected"),
    [
        ((2, -1), 1, (2, -1)),
        ((2, -1), -2, (2, -1)),
        ((2, 3), 2, "axis 2 is out of range; a tensor of rank 2 has axes -2 to 1"),
        ((2, 3), [1], "must be a scalar"),
        ((), 0, "the input is a scalar"),
    ],
)
def test_cumulative(shape, axis, expected):
    network = new_network()
    x, along = add_input(network, shape), add_constant(network, axis)
    operation = trt.CumulativeOperation.SUM
    layer = network.add_cumulative(x, along, operation, False, True)
    check(network, layer, expected)
    if layer is not None:
        assert (layer.op, layer.exclusive, layer.reverse) == (operation, False, True)
        layer.exclusive, layer.reverse = True, False
        assert (layer.exclusive, layer.reverse) == (True, False)
    flag = add_input(network, (2,), trt.bool)
    check(network, network.add_cumulative(flag, along, operation, False, False), "does not take BOOL")
    late = network.add_cumulative(
        add_input(network, (2,)), add_input(network, (), trt.int32), operation, 0, 0
    )
    check(network, late, "must be known when the network is built")


@pytest.mark.parametrize(
    ("shape", "lengths", "axes", "expected"),
    [
        ((7, 2, 3), (2,), None, (7, 2, 3)),
        ((2, 7, 3), (-1,), (0, 1), (2, 7, 3)),
        ((-1, -1), (4,), (0, 1), (-1, -1)),
        ((7, 2, 3), (7,), None, "there are 7 sequence lengths for 2 sequences"),
        ((7, 2, 3), (2, 1), None, "must be 1-D"),
        ((7,), (7,), None, "need two dimensions"),
        ((7, 2), (2,), (1, 1), "must differ, but both are 1"),
        ((7, 2), (2,), (2, 0), "batch_axis 2 is out of range"),
        ((7, 2), (2,), (1, -1), "sequence_axis -1 is out of range"),
    ],
)
def test_reverse_sequence(shape, lengths, axes, expected):
    network = new_network()
    layer = network.add_reverse_sequence(add_input(network, shape), add_input(network, lengths, trt.int32))
    if layer is not None:
        assert (layer.batch_axis, layer.sequence_axis) == (1, 0)
    if axes is not None:
        layer.batch_axis, layer.sequence_axis = axes
    check(network, layer, expected)


@pytest.mark.parametrize(
    ("kind", "shape", "axes", "expected"),
    [
        ("squeeze", (1, -1, 1, 3), [0, -2], (-1, 3)),
        ("squeeze", (1, -1), [1], (1,)),
        ("squeeze", (2, 3), [], (2, 3)),
        ("squeeze", (1, 3), [1], "dimension 1 of shape (1, 3) cannot be squeezed: its length is 3"),
        ("squeeze", (1, 1), [0, -2], "are not 2 different dimensions"),
        ("squeeze", (1, 1), [2], "axes [2] are not 1 different dimensions of a tensor of rank 2"),
        ("squeeze", (1, 1), 0, "must be 1-D"),
        ("unsqueeze", (-1, 3), [0, -1], (1, -1, 3, 1)),
        ("unsqueeze", (), [0], (1,)),
        ("unsqueeze", (2,), [], (2,)),
        ("unsqueeze", (2,), [2], "axes [2] are not 1 different dimensions of a tensor of rank 2"),
        ("unsqueeze", (2,), [0, -3], "are not 2 different dimensions of a tensor of rank 3"),
        ("unsqueeze", (2, 3), list(range(7)), "the output would have 9 dimensions"),
    ],
)
def test_unit_axes(kind, shape, axes, expected):
    network = new_network()
    layer = getattr(network, f"add_{kind}")(add_input(network, shape), add_constant(network, axes))
    check(network, layer, expected)


def test_unit_axes_must_be_known_and_carry_values():
    network = new_network()
    x = add_input(network, (-1, 1, 5))
    check(
        network,
        network.add_squeeze(x, add_input(network, (1,), trt.int64)),
        "must be known when the network is built",
    )
    axes = add_constant(network, [0])
    lengths = network.add_shape(x).get_output(0)
    last = network.add_slice(lengths, (2,), (1,), (1,)).get_output(0)
    scalar = network.add_squeeze(last, axes).get_output(0)
    again = network.add_unsqueeze(scalar, axes).get_output(0)
    assert (shape_of(scalar), scalar._known().value[()]) == ((), 5)
    assert (shape_of(again), again._known().value.tolist()) == ((1,), [5])
    reshape = network.add_shuffle(x)
    reshape.set_input(1, network.add_concatenation([add_constant(network, [-1]), again]).get_output(0))
    assert shape_of(reshape.get_output(0)) == (-1, 5)
    assert scalar.is_shape_tensor and again.is_shape_tensor


@pytest.mark.parametrize(
    ("kind", "attributes", "count"),
    [
        ("TOPK", {"op": MAX, "k": 2**31 - 1, "axes": 2**32 - 1, "indices_type": trt.bool}, 2),
        ("NON_ZERO", {"indices_type": trt.float16}, 1),
        ("SCATTER", {"axis": -(2**31), "mode": ELEMENT}, 3),
        ("ONE_HOT", {"axis": 2**31 - 1}, 3),
        ("CUMULATIVE", {"op": trt.CumulativeOperation.SUM, "exclusive": True, "reverse": True}, 2),
        ("REVERSE_SEQUENCE", {"batch_axis": -1, "sequence_axis": 9}, 2),
        ("SQUEEZE", {}, 2),
        ("UNSQUEEZE", {}, 2),
    ],
)
def test_whatever_a_plan_says_is_refused_or_inferred(kind, attributes, count):
    """Rules are run on what a damaged plan claims: any operands, none, and attributes out of any range."""
    operands = [
        None,
        Known(trt.int32, ()),
        Known(trt.float32, (2, -1)),
        Known(trt.int64, (0,)),
        Known(trt.bool, (1,)),
    ]
    for seed in range(60):
        chosen = np.random.default_rng(seed).integers(0, len(operands), seed % (count + 2))
        try:
            outputs = infer(trt.LayerType.__members__[kind], attributes, [operands[i] for i in chosen], True)
        except RuleError:
            continue
        assert all(isinstance(one, Known) for one in outputs)
