"""Layers that move data, in every type, with dynamic, empty and 0-d tensors."""

import numpy as np
import pytest
from lowered_net import FLOATS, INTS, NUMPY, TYPES, Net, same_bits
from sampling import covered

BUDGET_S = 20


def values(type_name, shape, seed=0):
    """Numbers that another type would not hold: 2**53 + 1 for int64, the largest for floats, NaN and infinities."""
    count = int(np.prod(shape))
    rng = np.random.default_rng(seed)
    dtype = NUMPY[type_name]
    if type_name == "BOOL":
        return rng.integers(0, 2, shape).astype(bool)
    if type_name in INTS:
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)
    numbers = rng.standard_normal(count).astype(np.float32).astype(dtype)
    numbers[:4] = np.array([np.nan, np.inf, -np.inf, -0.0], dtype)[:count]
    return numbers.reshape(shape)


@covered(type_name=TYPES, n=[3, 1, 0])
def test_shuffle_transposes_reshapes_transposes(type_name, n):
    a = values(type_name, (2, n, 6))
    net = Net()
    x = net.input("a", type_name, (2, -1, 6))
    y = net.op("shuffle", x, reshape_dims=(0, 0, 2, 3))
    layer = net.network.add_shuffle(y)
    layer.first_transpose = net.trt.Permutation([0, 2, 1, 3])
    layer.reshape_dims = (0, 0, -1)
    layer.second_transpose = net.trt.Permutation([1, 0, 2])
    net.mark(layer.get_output(0))
    if n == 0:
        got = net.run({"a": a})["y"]
        assert got.shape == (2, 2, 0)
        return
    expected = a.reshape(2, n, 2, 3).transpose(0, 2, 1, 3).reshape(2, 2, n * 3).transpose(1, 0, 2)
    same_bits(net.run({"a": a})["y"], expected)


@pytest.mark.parametrize("type_name", TYPES)
def test_views_to_and_from_0d(type_name):
    a = values(type_name, (1, 1))
    net = Net()
    scalar = net.op("shuffle", net.input("a", type_name, (1, 1)), reshape_dims=())
    net.mark(scalar, "scalar")
    net.mark(net.op("shuffle", scalar, reshape_dims=(1, 1, 1)), "back")
    got = net.run({"a": a})
    same_bits(got["scalar"], a.reshape(()))
    same_bits(got["back"], a.reshape(1, 1, 1))


@covered(n=[2, 0], index_type=INTS)
def test_reshape_by_a_computed_shape(index_type, n):
    """[n, 6] -> [n, 3, 2] with n read back from the input: no shape arithmetic is left in the graph."""
    net = Net()
    x = net.input("a", "FLOAT", (-1, 6))
    first = net.op("gather", net.op("shape", x), net.constant(np.array([0], np.int32)), 0)
    dims = net.op("concatenation", [first, net.constant(np.array([3, 2]))])
    if index_type == "INT32":
        dims = net.op("cast", dims, net.trt.int32)
    layer = net.network.add_shuffle(x)
    layer.set_input(1, dims)
    layer.zero_is_placeholder = False
    net.mark(layer.get_output(0))
    a = values("FLOAT", (n, 6))
    same_bits(net.run({"a": a})["y"], a.reshape(n, 3, 2))
    reshape = next(node for node in net.segment().model.graph.node if node.op_type == "Reshape")
    constants = {tensor.name for tensor in net.segment().model.graph.initializer}
    assert reshape.input[1] in constants


@pytest.mark.parametrize("shape", [(3, 5), (0, 5), (3, 0), (1, 5), (1, 1)])
@pytest.mark.parametrize(
    ("dims", "operator"),
    [
        ((0, 1, 1, -1), "Unsqueeze"),
        ((1, -1, 5), None),
        ((-1, 1), None),
        ((0, -1, 1), "Unsqueeze"),
        ((1, -1), None),
    ],
)
def test_reshapes_that_only_insert_ones_need_no_shape_arithmetic(shape, dims, operator):
    if dims == (1, -1, 5) and shape[1] != 5:
        return
    net = Net()
    net.mark(net.op("shuffle", net.input("a", "FLOAT", (-1, -1)), reshape_dims=dims))
    a = values("FLOAT", shape)
    expected = (
        a.reshape([shape[axis] if length == 0 else length for axis, length in enumerate(dims)])
        if a.size
        else None
    )
    got = net.run({"a": a})["y"]
    if expected is None:
        assert got.size == 0
    else:
        same_bits(got, expected)
    kinds = [node.op_type for node in net.segment().model.graph.node]
    if operator:
        assert operator in kinds
        assert "Shape" not in kinds
    else:
        assert "Unsqueeze" not in kinds


def test_reshape_by_an_input():
    net = Net()
    layer = net.network.add_shuffle(net.input("a", "FLOAT", (-1, -1)))
    layer.set_input(1, net.input("dims", "INT64", (3,)))
    layer.zero_is_placeholder = False
    net.mark(layer.get_output(0))
    for shape, dims in (((4, 6), (3, 2, 4)), ((0, 6), (3, 0, 2)), ((4, 6), (2, -1, 3))):
        a = values("FLOAT", shape)
        expected = a.reshape(dims)
        same_bits(net.run({"a": a, "dims": np.array(dims)})["y"], expected)


@pytest.mark.parametrize("type_name", TYPES)
def test_concatenation_of_full_and_empty(type_name):
    parts = [values(type_name, (2, n, 3), n) for n in (2, 0, 5)]
    net = Net()
    inputs = [net.input(f"x{i}", type_name, (2, -1, 3)) for i in range(3)]
    net.mark(net.op("concatenation", inputs, axis=1))
    same_bits(net.run({f"x{i}": part for i, part in enumerate(parts)})["y"], np.concatenate(parts, 1))


@covered(type_name=TYPES, index_type=INTS, axis=[0, 1, 2])
def test_gather(type_name, index_type, axis):
    data, indices = values(type_name, (3, 4, 5)), np.array([[2, 0], [1, 1]], NUMPY[index_type])
    net = Net()
    x, i = net.input("a", type_name, data.shape), net.input("i", index_type, (-1, 2))
    net.mark(net.op("gather_v2", x, i, net.trt.GatherMode.DEFAULT, axis=axis))
    same_bits(net.run({"a": data, "i": indices})["y"], np.take(data, indices, axis))
    assert net.run({"a": data, "i": indices[:0]})["y"].shape == (
        *data.shape[:axis],
        0,
        2,
        *data.shape[axis + 1 :],
    )


@covered(type_name=TYPES, axis=[1, 2, 3])
def test_gather_row_by_row(type_name, axis):
    data, indices = values(type_name, (3, 4, 5, 4)), np.array([[2, 0], [1, 1], [3, 2]], np.int32)
    net = Net()
    x, i = net.input("a", type_name, (-1, 4, 5, 4)), net.input("i", "INT32", (-1, 2))
    net.mark(net.op("gather", x, i, axis, num_elementwise_dims=1))
    expected = np.stack([np.take(data[b], indices[b], axis - 1) for b in range(3)])
    same_bits(net.run({"a": data, "i": indices})["y"], expected)


@pytest.mark.parametrize("type_name", TYPES)
def test_gather_elements_and_nd(type_name):
    data = values(type_name, (3, 4, 5))
    elements = np.random.default_rng(1).integers(0, 4, (3, 2, 5)).astype(np.int32)
    rows = np.array([[[1, 2]], [[0, 4]], [[3, 0]]], np.int32)
    net = Net()
    x = net.input("a", type_name, data.shape)
    e, r = net.input("e", "INT32", elements.shape), net.input("r", "INT32", rows.shape)
    net.mark(net.op("gather_v2", x, e, net.trt.GatherMode.ELEMENT, axis=1), "elements")
    net.mark(net.op("gather_v2", x, r, net.trt.GatherMode.ND, num_elementwise_dims=1), "rows")
    got = net.run({"a": data, "e": elements, "r": rows})
    same_bits(got["elements"], np.take_along_axis(data, elements.astype(np.int64), 1))
    same_bits(got["rows"], np.stack([data[b, rows[b, :, 0], rows[b, :, 1]] for b in range(3)]))


@pytest.mark.parametrize("type_name", TYPES)
def test_select(type_name):
    condition = np.random.default_rng(0).integers(0, 2, (3, 4)).astype(bool)
    then, otherwise = values(type_name, (3, 1), 1), values(type_name, (1, 4), 2)
    net = Net()
    c = net.input("c", "BOOL", (-1, 4))
    net.mark(net.op("select", c, net.input("t", type_name, (-1, 1)), net.input("e", type_name, (1, 4))))
    feeds = {"c": condition, "t": then, "e": otherwise}
    same_bits(net.run(feeds)["y"], np.where(condition, then, otherwise))


@covered(source=TYPES, target=TYPES)
def test_cast(source, target):
    if source == "BOOL":
        a = np.array([True, False])
    elif source in INTS:
        a = np.array([0, 1, -1, 2049, 2051, 257, -300], NUMPY[source])
    else:
        a = np.array([0, 0.5, -0.5, 1e-6, 2.75, -2.75, 2049, 257.5, 1.00390625], np.float32).astype(
            NUMPY[source]
        )
    net = Net()
    x = net.input("a", source, a.shape)
    net.mark(net.op("cast", x, getattr(net.trt.DataType, target)))
    through = a.astype(np.float32) if source in ("HALF", "BF16") else a
    same_bits(net.run({"a": a})["y"], through.astype(NUMPY[target]))


def test_two_casts_of_one_tensor_are_two_outputs():
    a = np.array([0.1, 1.7], np.float32)
    net = Net()
    x = net.input("a", "FLOAT", (2,))
    net.mark(net.op("cast", x, net.trt.float16), "one")
    net.mark(net.op("cast", x, net.trt.float16), "two")
    got = net.run({"a": a})
    same_bits(got["one"], a.astype(np.float16))
    same_bits(got["two"], a.astype(np.float16))


@pytest.mark.parametrize("type_name", TYPES)
def test_outputs_that_are_an_input_or_a_constant(type_name):
    a = values(type_name, (2, 2))
    net = Net()
    net.mark(net.op("identity", net.input("a", type_name, (2, 2))), "copied")
    net.mark(net.constant(a), "constant")
    net.mark(net.op("shape", net.network.get_input(0)), "shape")
    got = net.run({"a": a})
    same_bits(got["copied"], a)
    same_bits(got["constant"], a)
    same_bits(got["shape"], np.array([2, 2]))


@pytest.mark.parametrize("type_name", TYPES)
def test_0d_through_layers(type_name):
    a = values(type_name, ())
    net = Net()
    x = net.input("a", type_name, ())
    net.mark(net.op("identity", x), "same")
    net.mark(net.op("shape", x), "shape")
    net.mark(net.op("cast", x, net.trt.bool), "truth")
    got = net.run({"a": a})
    same_bits(got["same"], a)
    same_bits(got["shape"], np.empty(0, np.int64))
    same_bits(got["truth"], np.asarray(a != 0))


# Slices

SLICES = [
    ((1, 0), (2, 3), (1, 1)),
    ((0, 4), (2, 3), (2, -2)),
    ((3, 2), (4, 2), (-1, -2)),
    ((1, 1), (3, 4), (0, 1)),
    ((0, 0), (0, 5), (1, 1)),
    ((0, 0), (4, 5), (1, 1)),
]
OUTSIDE = [((-3, -7), (9, 20), (1, 1)), ((9, 3), (6, 7), (-2, 3)), ((-9, 2), (4, 3), (5, 0))]


def sliced(a, start, size, stride, mode, fill):
    """Element by element from the definition."""
    out = a
    missing = np.zeros(size, bool)
    for axis, (first, count, step) in enumerate(zip(start, size, stride, strict=True)):
        length = a.shape[axis]
        index = first + step * np.arange(count)
        lost = (index < 0) | (index >= length)
        if mode == "WRAP":
            index = index % length
        elif mode == "REFLECT":
            period = max(1, 2 * (length - 1))
            index = np.minimum(index % period, period - index % period)
        else:
            index = np.clip(index, 0, length - 1)
        if mode == "FILL":
            missing |= lost.reshape([-1 if axis == other else 1 for other in range(a.ndim)])
        out = np.take(out, index, axis)
    return np.where(missing, np.asarray(fill, a.dtype), out)


def slice_net(type_name, mode, start, size, stride, dynamic, length=-1):
    net = Net()
    x = net.input("a", type_name, (length, 5))
    layer = net.network.add_slice(x, start, size, stride)
    layer.mode = getattr(net.trt.SampleMode, mode)
    feeds = {}
    for index, (name, numbers) in enumerate((("start", start), ("size", size), ("stride", stride)), 1):
        if name in dynamic:
            layer.set_input(index, net.input(name, "INT32", (2,)))
            feeds[name] = np.array(numbers, np.int32)
    if mode == "FILL":
        layer.set_input(4, net.input("fill", type_name, ()))
    net.mark(layer.get_output(0))
    return net, feeds


@covered(
    type_name=["FLOAT", "BF16", "INT64", "BOOL"], dynamic=[(), ("start", "size"), ("start", "size", "stride")]
)
@pytest.mark.parametrize("start, size, stride", SLICES)
def test_strict_slice(type_name, dynamic, start, size, stride):
    a = values(type_name, (4, 5))
    net, feeds = slice_net(type_name, "STRICT_BOUNDS", start, size, stride, dynamic)
    same_bits(net.run({"a": a, **feeds})["y"], sliced(a, start, size, stride, "STRICT_BOUNDS", 0))


@covered(
    type_name=TYPES, mode=["FILL", "CLAMP", "WRAP", "REFLECT"], dynamic=[(), ("start", "size", "stride")]
)
def test_slice_outside_of_the_input(type_name, mode, dynamic):
    a = values(type_name, (4, 5))
    fill = np.asarray(1.5, np.float32).astype(NUMPY[type_name])
    for start, size, stride in OUTSIDE:
        net, feeds = slice_net(type_name, mode, start, size, stride, dynamic)
        if mode == "FILL":
            feeds["fill"] = fill
        same_bits(net.run({"a": a, **feeds})["y"], sliced(a, start, size, stride, mode, fill))


def test_slice_of_length_one_reflects_to_itself():
    a = values("FLOAT", (1, 5), 3)
    net, _ = slice_net("FLOAT", "REFLECT", (-2, 0), (5, 5), (1, 1), ())
    same_bits(net.run({"a": a})["y"], np.repeat(a, 5, 0))


@pytest.mark.parametrize("mode", ["STRICT_BOUNDS", "FILL", "CLAMP", "WRAP", "REFLECT"])
def test_nothing_of_nothing(mode):
    net, feeds = slice_net("FLOAT", mode, (0, 0), (0, 5), (1, 1), ("start", "size"))
    feeds |= {"fill": np.float32(0)} if mode == "FILL" else {}
    assert net.run({"a": np.empty((0, 5), np.float32), **feeds})["y"].shape == (0, 5)


def test_filled_slice_of_nothing():
    net, _ = slice_net("FLOAT", "FILL", (-1, 0), (3, 5), (1, 1), ())
    got = net.run({"a": np.empty((0, 5), np.float32), "fill": np.float32(2)})["y"]
    same_bits(got, np.full((3, 5), 2, np.float32))


def test_slice_to_the_input_s_own_length_is_free():
    net = Net()
    x = net.input("a", "FLOAT", (-1, 6))
    length = net.op("gather", net.op("shape", x), net.constant(np.array([0], np.int32)), 0)
    layer = net.network.add_slice(x, (0, 2), (1, 3), (1, 1))
    layer.set_input(2, net.op("concatenation", [length, net.constant(np.array([3]))]))
    net.mark(layer.get_output(0))
    cut = next(node for node in net.segment().model.graph.node if node.op_type == "Slice")
    constants = {tensor.name for tensor in net.segment().model.graph.initializer}
    assert set(cut.input[1:]) <= constants
    a = values("FLOAT", (4, 6))
    same_bits(net.run({"a": a})["y"], a[:, 2:5])


# Fill


@covered(type_name=["FLOAT", *INTS], length=[0, 1, 7, 5000])
def test_linspace(type_name, length):
    net = Net()
    layer = net.network.add_fill(
        (length,), net.trt.FillOperation.LINSPACE, getattr(net.trt.DataType, type_name)
    )
    layer.alpha, layer.beta = (1.5, 0.25) if type_name == "FLOAT" else (5, -3)
    net.mark(layer.get_output(0))
    start, step = (1.5, 0.25) if type_name == "FLOAT" else (5, -3)
    same_bits(net.run({})["y"], (start + np.arange(length) * step).astype(NUMPY[type_name]))


@pytest.mark.parametrize("type_name", ["FLOAT", *INTS])
def test_linspace_by_inputs(type_name):
    dtype = NUMPY[type_name]
    net = Net()
    layer = net.network.add_fill((1, 1), net.trt.FillOperation.LINSPACE, getattr(net.trt.DataType, type_name))
    layer.set_input(0, net.input("dims", "INT32", (2,)))
    layer.set_input(1, net.input("start", type_name, ()))
    layer.set_input(2, net.input("steps", type_name, (2,)))
    net.mark(layer.get_output(0))
    start, steps = (2**53 + 1, [2, -5]) if type_name == "INT64" else (7, [2, -5])
    for dims in ((3, 4), (0, 2), (1, 1)):
        feeds = {
            "dims": np.array(dims, np.int32),
            "start": dtype.type(start),
            "steps": np.array(steps, dtype),
        }
        rows, columns = np.indices(dims)
        same_bits(net.run(feeds)["y"], (start + rows * steps[0] + columns * steps[1]).astype(dtype))


def test_elements_of_floats_survive_movement(tmp_path):
    """Every type keeps its bits through a chain of movement at full optimisation."""
    for type_name in FLOATS:
        a = values(type_name, (4, 5))
        net = Net()
        x = net.input("a", type_name, (4, 5))
        y = net.op("shuffle", x, first_transpose=net.trt.Permutation([1, 0]))
        y = net.op("concatenation", [y, y], axis=0)
        y = net.op("slice", y, (1, 0), (6, 4), (1, 1))
        net.mark(y)
        same_bits(net.run({"a": a})["y"], np.concatenate([a.T, a.T])[1:7])


@covered(rows=[0, 2], computed=[False, True])
def test_a_copied_length_of_zero_beside_an_open_one(rows, computed):
    net = Net()
    x = net.input("a", "FLOAT", (-1, -1, 8))
    layer = net.network.add_shuffle(x)
    if computed:
        layer.set_input(1, net.constant(np.array([0, -1])))
    else:
        layer.reshape_dims = (0, -1)
    net.mark(layer.get_output(0))
    a = np.arange(rows * 24, dtype=np.float32).reshape(rows, 3, 8)
    np.testing.assert_array_equal(net.run({"a": a})["y"], a.reshape(rows, 24))
