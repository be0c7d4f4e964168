"""Top-k, non-zero, scatter, one-hot, running sums, reversed sequences, squeezes against numpy and torch."""

import numpy as np
import pytest
import torch
from lowered_net import FLOATS, INTS, NARROW, NUMPY, TYPES, Net, same_bits
from sampling import covered
from test_lower_moving import values

BUDGET_S = 6

NUMBERS = (*FLOATS, *INTS)


def few_values(type_name, shape, seed=0):
    """Numbers with many ties, the extremes of the type among them."""
    rng = np.random.default_rng(seed)
    dtype = NUMPY[type_name]
    if type_name in INTS:
        info = np.iinfo(dtype)
        return rng.choice(np.array([info.min, -1, 0, 1, info.max - 1, info.max], dtype), shape)
    return rng.choice([-np.inf, -1.5, -0.0, 0.0, 2.5, np.inf], shape).astype(dtype)


def sorted_by_hand(a, axis, largest):
    """Python's sort keeps the order of equal elements, so does this."""
    rows = np.moveaxis(a, axis, -1)
    order = np.empty(rows.shape, np.int32)
    for place in np.ndindex(*rows.shape[:-1]):
        row = rows[place].tolist()
        order[place] = sorted(range(len(row)), key=lambda i, row=row: -row[i] if largest else row[i])
    return np.moveaxis(order, -1, axis)


@covered(operation=["MAX", "MIN"], type_name=NUMBERS)
@pytest.mark.parametrize("axis, k", [(1, 4), (2, 3), (2, 37)])
def test_topk_is_a_stable_sort(type_name, operation, axis, k):
    a = few_values(type_name, (2, 5, 37))
    net = Net()
    x = net.input("a", type_name, (-1, 5, 37))
    layer = net.network.add_topk(x, getattr(net.trt.TopKOperation, operation), k, 1 << axis)
    net.mark(layer.get_output(0), "values")
    net.mark(layer.get_output(1), "indices")
    for n in (2, 0):
        got = net.run({"a": a[:n]})
        order = np.take(sorted_by_hand(a[:n], axis, operation == "MAX"), range(k), axis)
        same_bits(got["indices"], order)
        same_bits(got["values"], np.take_along_axis(a[:n], order, axis))


def test_topk_of_a_k_that_is_an_input():
    net = Net()
    layer = net.network.add_topk(
        net.input("a", "HALF", (4, -1)), net.trt.TopKOperation.MAX, 1, 2, net.trt.int64
    )
    layer.set_input(1, net.input("k", "INT32", ()))
    net.mark(layer.get_output(0), "values")
    net.mark(layer.get_output(1), "indices")
    a = values("HALF", (4, 9), 3)
    a[~np.isfinite(a.astype(np.float32))] = 7
    for k in (1, 5, 9):
        got = net.run({"a": a, "k": np.array(k, np.int32)})
        want, _ = torch.topk(torch.from_numpy(a), k, dim=1)
        same_bits(got["values"], want.numpy())
        same_bits(np.take_along_axis(a, got["indices"], 1), want.numpy())
        assert got["indices"].dtype == np.int64


@covered(index_type=INTS, type_name=TYPES, shape=[(3, 4), (7,), (2, 0, 3), ()])
def test_non_zero(type_name, shape, index_type):
    a = values(type_name, shape) if type_name == "BOOL" else few_values(type_name, shape, 5)
    if a.size > 2 and type_name in FLOATS:
        a.reshape(-1)[:2] = (np.nan, np.finfo(NUMPY[type_name] if type_name != "BF16" else np.float32).tiny)
    net = Net()
    indices_type = getattr(net.trt.DataType, index_type)
    net.mark(net.op("non_zero", net.input("a", type_name, (-1,) * len(shape)), indices_type))
    for one in (a, np.zeros_like(a), np.ones_like(a)):
        expected = torch.from_numpy(np.asarray(one != 0)).nonzero().numpy().T
        same_bits(net.run({"a": one})["y"], expected.astype(NUMPY[index_type]))


def distinct_indices(shape, axis, length, index_type, seed=0):
    """Indices along `axis`, all different in each row along it."""
    noise = np.random.default_rng(seed).random((*shape[:axis], length, *shape[axis + 1 :]))
    return np.take(noise.argsort(axis), range(shape[axis]), axis).astype(NUMPY[index_type])


@pytest.mark.parametrize("type_name", NUMBERS)
@pytest.mark.parametrize(
    "axis, index_type, shape", [(0, "INT32", (2, 4)), (1, "INT64", (3, 2)), (1, "INT32", (0, 2))]
)
def test_scatter_elements(type_name, axis, index_type, shape):
    data, updates = values(type_name, (3, 4)), values(type_name, shape, 1)
    index = distinct_indices(shape, axis, data.shape[axis], index_type)
    net = Net()
    inputs = [
        net.input("data", type_name, (-1, 4)),
        net.input("index", index_type, (-1, -1)),
        net.input("updates", type_name, (-1, -1)),
    ]
    net.mark(net.op("scatter", *inputs, net.trt.ScatterMode.ELEMENT, axis=axis))
    expected = data.copy()
    for place in np.ndindex(*shape):
        target = list(place)
        target[axis] = index[place]
        expected[tuple(target)] = updates[place]
    same_bits(net.run({"data": data, "index": index, "updates": updates})["y"], expected)


@covered(type_name=NUMBERS, depth=[1, 2, 3], count=[(3,), (2, 2), (0,)])
def test_scatter_nd(type_name, depth, count):
    data = values(type_name, (5, 4, 3))
    total = int(np.prod(count))
    places = np.random.default_rng(depth).permutation(int(np.prod(data.shape[:depth])))[:total]
    index = np.stack(np.unravel_index(places, data.shape[:depth]), -1).reshape(*count, depth)
    updates = values(type_name, (*count, *data.shape[depth:]), 2)
    net = Net()
    inputs = [
        net.input("data", type_name, (-1, 4, 3)),
        net.input("index", "INT32", (*(-1,) * len(count), depth)),
        net.input("updates", type_name, (*(-1,) * len(count), *data.shape[depth:])),
    ]
    net.mark(net.op("scatter", *inputs, net.trt.ScatterMode.ND))
    expected = data.copy()
    expected[tuple(np.moveaxis(index, -1, 0))] = updates
    same_bits(net.run({"data": data, "index": index.astype(np.int32), "updates": updates})["y"], expected)


@covered(type_name=TYPES, shape=[(4, 2), (3,), (), (0, 2)])
def test_one_hot(type_name, shape):
    off_on = values(type_name, (2,), 4) if type_name != "BOOL" else np.array([True, False])
    index = np.random.default_rng(1).integers(0, 6, shape).astype(np.int32)
    for axis in range(-len(shape) - 1, len(shape) + 1):
        net = Net()
        x = net.input("index", "INT32", (-1,) * len(shape))
        pair = net.input("pair", type_name, (2,))
        net.mark(net.op("one_hot", x, pair, net.constant(np.array(6, np.int64)), axis))
        is_on = torch.nn.functional.one_hot(torch.from_numpy(index.astype(np.int64)), 6).numpy().astype(bool)
        expected = np.moveaxis(off_on[is_on.astype(np.int64)], -1, axis)
        same_bits(net.run({"index": index, "pair": off_on})["y"], expected)


def cumulative_net(type_name, shape, axis, exclusive=False, reverse=False):
    net = Net()
    x = net.input("a", type_name, shape)
    along = net.constant(np.array(axis, np.int32))
    operation = net.trt.CumulativeOperation.SUM
    net.mark(net.op("cumulative", x, along, operation, exclusive, reverse))
    return net


@covered(exclusive=[False, True], reverse=[False, True], type_name=NUMBERS)
def test_cumulative(type_name, exclusive, reverse):
    """Whole numbers add up exactly; the sums of integers wrap."""
    wide = np.random.default_rng(0).integers(-8, 9, (3, 4, 5))
    if type_name in INTS:
        wide = wide * (np.iinfo(NUMPY[type_name]).max // 16)
    a = wide.astype(NUMPY[type_name])
    for axis in (0, -1):
        net = cumulative_net(type_name, (-1, 4, 5), axis, exclusive, reverse)
        for one in (a, a[:1], a[:0]):
            turned = torch.from_numpy(one.astype(np.float64 if type_name in FLOATS else a.dtype))
            turned = turned.flip(axis) if reverse else turned
            sums = turned.cumsum(axis, dtype=turned.dtype)
            sums = sums - turned if exclusive else sums
            expected = (sums.flip(axis) if reverse else sums).numpy().astype(a.dtype)
            same_bits(net.run({"a": one})["y"], expected)


@pytest.mark.parametrize("type_name", NARROW)
def test_running_sums_are_rounded_once(type_name):
    """A quarter of the type's step at 1: added up in the type itself, the sum would stay at 1."""
    step = 2.0 ** (-12 if type_name == "HALF" else -9)
    a = np.full(65, step, np.float32).astype(NUMPY[type_name])
    a[0] = 1
    expected = np.cumsum(a.astype(np.float32)).astype(a.dtype)
    assert expected[-1] > 1
    same_bits(cumulative_net(type_name, (-1,), 0).run({"a": a})["y"], expected)


@pytest.mark.parametrize("type_name", TYPES)
@pytest.mark.parametrize("batch, sequence", [(1, 0), (0, 1), (2, 0), (1, 2)])
def test_reverse_sequence(type_name, batch, sequence):
    a = values(type_name, (4, 3, 5))
    net = Net()
    inputs = [net.input("a", type_name, (-1, 3, -1)), net.input("lengths", "INT64", (-1,))]
    net.mark(net.op("reverse_sequence", *inputs, batch_axis=batch, sequence_axis=sequence))
    for lengths in (np.arange(a.shape[batch]) % (a.shape[sequence] + 1), np.zeros(a.shape[batch], np.int64)):
        expected = np.moveaxis(a.copy(), (batch, sequence), (0, 1))
        for row, length in zip(expected, lengths, strict=True):
            row[:length] = np.flip(row[:length], 0).copy()
        got = net.run({"a": a, "lengths": lengths.astype(np.int64)})["y"]
        same_bits(got, np.moveaxis(expected, (0, 1), (batch, sequence)))


@pytest.mark.parametrize("type_name", TYPES)
def test_squeeze_and_unsqueeze(type_name):
    a = values(type_name, (1, 3, 1, 2))
    net = Net()
    x = net.input("a", type_name, (1, -1, 1, 2))
    net.mark(net.op("squeeze", x, net.constant(np.array([-2, 0]))), "squeezed")
    net.mark(net.op("unsqueeze", x, net.constant(np.array([0, -1, 3]))), "unsqueezed")
    got = net.run({"a": a})
    same_bits(got["squeezed"], a.reshape(3, 2))
    same_bits(got["unsqueezed"], a.reshape(1, 1, 3, 1, 1, 2, 1))


def test_axes_that_only_the_network_follows():
    """Axes computed from constants: the network knows them, the lowering leaves them to the runtime."""
    net = Net()
    x = net.input("a", "FLOAT", (-1, 1, 3))
    one = net.constant(np.array([1]))
    axes = net.op("elementwise", one, one, net.trt.ElementWiseOperation.PROD)
    net.mark(net.op("squeeze", x, axes), "squeezed")
    net.mark(net.op("unsqueeze", x, axes), "unsqueezed")
    a = values("FLOAT", (2, 1, 3))
    got = net.run({"a": a})
    same_bits(got["squeezed"], a[:, 0])
    same_bits(got["unsqueezed"], a[:, None])


def test_a_shape_taken_apart_by_squeezes_leaves_no_arithmetic():
    """unsqueeze(squeeze(shape(x)[0])) is still the length of x: the reshape needs no other nodes."""
    net = Net()
    x = net.input("a", "FLOAT", (-1, 6))
    zero = net.constant(np.array([0]))
    first = net.op("gather", net.op("shape", x), zero, 0)
    scalar = net.op("squeeze", first, zero)
    lengths = net.op("concatenation", [net.op("unsqueeze", scalar, zero), net.constant(np.array([3, 2]))])
    layer = net.network.add_shuffle(x)
    layer.set_input(1, lengths)
    net.mark(layer.get_output(0))
    assert [node.op_type for node in net.segment().model.graph.node] == ["Reshape"]
    same_bits(net.run({"a": np.zeros((4, 6), np.float32)})["y"], np.zeros((4, 3, 2), np.float32))


def test_positions_are_computed_once_for_all_that_need_them():
    net = Net()
    found = net.op("non_zero", net.input("a", "BOOL", (-1,)))
    net.mark(found, "where")
    net.mark(net.op("shape", found), "shape")
    graph = net.segment().model.graph
    assert [node.op_type for node in graph.node].count("NonZero") == 1
    lengths = {info.name: info.type.tensor_type.shape.dim for info in graph.output}
    assert lengths["where"][0].dim_value == 1 and not lengths["where"][1].dim_value
