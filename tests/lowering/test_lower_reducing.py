"""Reduce, softmax, normalization and matrix products against numpy."""

import itertools

import numpy as np
import pytest
from lowered_net import FLOATS, INTS, NUMPY, Net, run_session, same_bits, session_of
from sampling import covered
from test_lower_pointwise import close_in, floats

from trtllm_ext.lowering.lower import lower

BUDGET_S = 15

REDUCE = {"SUM": np.sum, "PROD": np.prod, "MAX": np.max, "MIN": np.min, "AVG": np.mean}


def whole(type_name, shape, seed=0, high=4):
    """Small whole numbers: sums and products of them are exact in float32, whatever the order."""
    numbers = np.random.default_rng(seed).integers(-high, high + 1, shape)
    return numbers.astype(np.float32).astype(NUMPY[type_name])


def reduce(a, type_name, operation, axes, keep, shape=None):
    net = Net()
    x = net.input("a", type_name, a.shape if shape is None else shape)
    mask = sum(1 << axis for axis in axes)
    net.mark(net.op("reduce", x, getattr(net.trt.ReduceOperation, operation), mask, keep))
    return net.run({"a": a})["y"]


@covered(type_name=FLOATS, operation=REDUCE)
@pytest.mark.parametrize("axes, keep", [((1,), True), ((0, 2), False), ((0, 1, 2), False)])
def test_reduce_of_floats(type_name, operation, axes, keep):
    a = whole(type_name, (2, 4, 4), high=2 if operation == "PROD" else 9)
    expected = REDUCE[operation](a.astype(np.float64), axis=axes, keepdims=keep)
    same_bits(
        reduce(a, type_name, operation, axes, keep), np.asarray(expected, np.float32).astype(NUMPY[type_name])
    )


@covered(type_name=INTS, operation=REDUCE)
def test_reduce_of_integers_is_exact(type_name, operation):
    """Products too, which wrap as in C."""
    a = np.array([[2**29 + 1, -3, 2], [7, 5, -(2**28) - 1]], NUMPY[type_name])
    if type_name == "INT64":
        a[0, 0] = 2**60 + 1
    if operation == "AVG":
        total = a.sum(axis=1, dtype=np.int64)
        expected = (np.sign(total) * (np.abs(total) // 3)).astype(a.dtype)
    else:
        expected = np.asarray(REDUCE[operation](a.astype(np.int64), axis=1)).astype(a.dtype)
    same_bits(reduce(a, type_name, operation, (1,), False), expected)


@covered(type_name=INTS, operation=["SUM", "AVG", "MAX", "MIN"])
@pytest.mark.parametrize("axes, keep", [((0,), True), ((1,), False), ((0, 1), False)])
def test_integers_beyond_floats(type_name, operation, axes, keep):
    info = np.iinfo(NUMPY[type_name])
    a = np.random.default_rng(3).integers(info.min, info.max, (5, 7), dtype=NUMPY[type_name])
    got = reduce(a, type_name, operation, axes, keep)
    expected = np.asarray(REDUCE["SUM" if operation == "AVG" else operation](a, axis=axes, keepdims=keep))
    expected = expected.astype(a.dtype)  # which wraps
    if operation == "AVG":
        count = a.size // expected.size
        expected = np.array(
            [abs(n) // count * (1 if n > 0 else -1) for n in expected.ravel().tolist()], a.dtype
        )
        expected = expected.reshape(got.shape)
    same_bits(got, expected)


@pytest.mark.parametrize("axes, keep", [((0, 1), True), ((0, 1), False), ((0,), True), ((1,), False)])
@pytest.mark.parametrize("n", [3, 0])
def test_product_of_integers_over_axes(axes, keep, n):
    a = np.arange(2, 2 + 2 * n, dtype=np.int32).reshape(n, 2)
    got = reduce(a, "INT32", "PROD", axes, keep, shape=(-1, 2))
    same_bits(got, a.prod(axes, keepdims=keep, dtype=np.int32))


@pytest.mark.parametrize("operation, identity", [("SUM", 0), ("PROD", 1), ("MAX", -np.inf), ("MIN", np.inf)])
def test_reduce_over_nothing(operation, identity):
    got = reduce(np.zeros((3, 0), np.float32), "FLOAT", operation, (1,), False, shape=(3, -1))
    same_bits(got, np.full(3, identity, np.float32))


@pytest.mark.parametrize("type_name, expected", [("FLOAT", np.nan), ("INT32", 0), ("INT64", 0)])
def test_average_of_nothing(type_name, expected):
    a = np.zeros((3, 0), NUMPY[type_name])
    same_bits(reduce(a, type_name, "AVG", (1,), False, shape=(3, -1)), np.full(3, expected, NUMPY[type_name]))


def test_average_over_a_length_known_at_run_time():
    a = whole("FLOAT", (4, 2, 3))
    got = reduce(a, "FLOAT", "AVG", (0, 1), True, shape=(-1, -1, 3))
    same_bits(got, a.mean((0, 1), keepdims=True))


@covered(type_name=FLOATS, axis=[0, 1, 2])
def test_softmax(type_name, axis):
    a = floats(type_name, (3, 5, 4))
    net = Net()
    net.mark(net.op("softmax", net.input("a", type_name, (-1, 5, 4)), axes=1 << axis))
    wide = np.exp(a.astype(np.float64))
    close_in(type_name, net.run({"a": a})["y"], wide / wide.sum(axis, keepdims=True))
    assert net.run({"a": a[:0]})["y"].shape == (0, 5, 4)


def normalize(x, axes, epsilon):
    mean = x.mean(axes, keepdims=True)
    return (x - mean) / np.sqrt(((x - mean) ** 2).mean(axes, keepdims=True) + epsilon)


@pytest.mark.parametrize("type_name", FLOATS)
@pytest.mark.parametrize("axes, parameter_shape", [((2,), (1, 1, 6)), ((1, 2), (1, 4, 6)), ((2,), (1, 4, 1))])
@pytest.mark.parametrize("constant", [True, False])
def test_normalization(type_name, axes, parameter_shape, constant):
    a, scale, bias = (
        floats(type_name, shape, i) for i, shape in enumerate([(3, 4, 6), parameter_shape, parameter_shape])
    )
    net = Net()
    x = net.input("a", type_name, (-1, 4, 6))
    feeds = {"a": a}
    if constant:
        s, b = net.constant(scale), net.constant(bias)
    else:
        s, b = net.input("s", type_name, parameter_shape), net.input("b", type_name, parameter_shape)
        feeds |= {"s": scale, "b": bias}
    net.mark(net.op("normalization", x, s, b, sum(1 << axis for axis in axes), epsilon=1e-3))
    wide = [array.astype(np.float64) for array in (a, scale, bias)]
    close_in(type_name, net.run(feeds)["y"], normalize(wide[0], axes, 1e-3) * wide[1] + wide[2], ulps=2)


@covered(type_name=FLOATS, batch=[3, 0])
def test_group_norm(type_name, batch):
    channels, groups = 6, 3
    a = floats(type_name, (batch, channels, 2, 5))
    scale, bias = floats(type_name, (1, groups, 1, 1), 1), floats(type_name, (1, groups, 1, 1), 2)
    net = Net()
    x = net.input("a", type_name, (-1, channels, 2, 5))
    s, b = net.constant(scale), net.constant(bias)
    net.mark(net.op("normalization", x, s, b, 0b1100, epsilon=1e-5, num_groups=groups))
    grouped = a.astype(np.float64).reshape(batch, groups, channels // groups * 10)
    wide = (normalize(grouped, (2,), 1e-5) if batch else grouped) * scale[0, :, 0].astype(np.float64)
    expected = (wide + bias[0, :, 0].astype(np.float64)).reshape(a.shape)
    close_in(type_name, net.run({"a": a})["y"], expected)


@covered(
    type_name=FLOATS,
    op0=["NONE", "TRANSPOSE", "VECTOR"],
    op1=["NONE", "TRANSPOSE", "VECTOR"],
    batch=[(), (2, 1)],
    constant=[True, False],
)
def test_matrix_multiply(type_name, op0, op1, batch, constant):
    m, k, n = 3, 5, 4
    shape0 = {"NONE": (m, k), "TRANSPOSE": (k, m), "VECTOR": (k,)}[op0]
    shape1 = {"NONE": (k, n), "TRANSPOSE": (n, k), "VECTOR": (k,)}[op1]
    a = whole(type_name, (*batch, *shape0), 0)
    b = whole(type_name, (*(1 for _ in batch), *shape1), 1)
    net = Net()
    x = net.input("a", type_name, a.shape)
    z = net.constant(b) if constant else net.input("b", type_name, b.shape)
    operations = net.trt.MatrixOperation
    net.mark(net.op("matrix_multiply", x, getattr(operations, op0), z, getattr(operations, op1)))
    left, right = a.astype(np.float64), b.astype(np.float64)
    left = left[..., None, :] if op0 == "VECTOR" else left.swapaxes(-1, -2) if op0 == "TRANSPOSE" else left
    right = right[..., None] if op1 == "VECTOR" else right.swapaxes(-1, -2) if op1 == "TRANSPOSE" else right
    expected = left @ right
    if op1 == "VECTOR":
        expected = expected[..., 0]
    if op0 == "VECTOR":
        expected = expected[..., 0] if op1 == "VECTOR" else expected[..., 0, :]
    got = net.run({"a": a} if constant else {"a": a, "b": b})["y"]
    same_bits(got, expected.astype(np.float32).astype(NUMPY[type_name]))


@pytest.mark.parametrize("batch", [3, 1, 0])
def test_batch_of_none_against_one(batch):
    a, b = whole("FLOAT", (batch, 2, 3, 5)), whole("FLOAT", (1, 2, 4, 5), 1)
    net = Net()
    operations = net.trt.MatrixOperation
    x, z = net.input("a", "FLOAT", (-1, 2, 3, 5)), net.input("b", "FLOAT", b.shape)
    net.mark(net.op("matrix_multiply", x, operations.NONE, z, operations.TRANSPOSE))
    same_bits(net.run({"a": a, "b": b})["y"], a @ b.swapaxes(-1, -2))


def in_memory(matrices, op, order):
    """What a product's operand is given as, if a shuffle of `order` and then the product's `op` turn it back."""
    turned = matrices.swapaxes(-1, -2) if op == "TRANSPOSE" else matrices
    return np.ascontiguousarray(turned.transpose(np.argsort(order)))


@covered(
    rank=[3, 4],
    ops=list(itertools.product(("NONE", "TRANSPOSE"), repeat=2)),
    shuffled=["nothing", "rows and columns", "batch and rows"],
    constant=[None, "a", "b"],
)
def test_batches_broadcast_to_none(rank, ops, shuffled, constant):
    """Batch lengths of 0, 1 and 3 against each other, where the network knows none of them."""
    order = list(range(rank))
    if shuffled == "rows and columns":
        order[-1], order[-2] = order[-2], order[-1]
    elif shuffled == "batch and rows":
        order[:-1] = [*order[1:-1], 0]
    given = {
        "a": whole("FLOAT", (1,) * (rank - 2) + (2, 5)),
        "b": whole("FLOAT", (1,) * (rank - 2) + (5, 4), 1),
    }
    net, operands = Net(), []
    for (name, matrices), op in zip(given.items(), ops, strict=True):
        if name == constant:
            tensor = net.constant(in_memory(matrices, op, range(rank)))
        else:
            tensor = net.input(name, "FLOAT", (-1,) * rank)
            tensor = net.op("shuffle", tensor, first_transpose=tuple(order))
        operands += [tensor, getattr(net.trt.MatrixOperation, op)]
    net.mark(net.op("matrix_multiply", *operands))
    session = session_of(net.segment())
    batches = {
        name: [(1,) * (rank - 2)] if name == constant else list(itertools.product((0, 1, 3), repeat=rank - 2))
        for name in given
    }
    for batch in itertools.product(*batches.values()):
        if any({3} < {*lengths} != {1, 3} for lengths in zip(*batch, strict=True)):
            continue  # 0 and 3 do not broadcast
        feeds = {}
        for (name, matrices), lengths, op in zip(given.items(), batch, ops, strict=True):
            matrices = np.broadcast_to(matrices, (*lengths, *matrices.shape[-2:]))
            feeds[name] = in_memory(matrices, op, order)
        expected = np.broadcast_to(given["a"], (*batch[0], 2, 5)) @ np.broadcast_to(
            given["b"], (*batch[1], 5, 4)
        )
        feeds.pop(constant, None)
        same_bits(run_session(session, feeds)["y"], expected)


@covered(
    ops=list(itertools.product(("NONE", "TRANSPOSE"), repeat=2)),
    declared=["static", "dynamic"],
    batches=[((1,), (2,)), ((4, 1), (1, 3)), ((2,), (2,)), ((2,), (1,))],
)
def test_sums_of_nothing_in_batches(ops, declared, batches):
    """ONNX Runtime forgets the right operand's batches if the lengths summed over are 0, or leaves some unwritten."""
    for summed in (0, 3) if declared == "dynamic" else (0,):
        matrices = [
            whole("FLOAT", (*batch, rows, columns), number)
            for number, (batch, rows, columns) in enumerate(
                zip(batches, (2, summed), (summed, 4), strict=True)
            )
        ]
        net, operands, feeds = Net(), [], {}
        for name, one, op in zip("ab", matrices, ops, strict=True):
            feeds[name] = in_memory(one, op, range(one.ndim))
            shape = (-1,) * one.ndim if declared == "dynamic" else feeds[name].shape
            operands += [net.input(name, "FLOAT", shape), getattr(net.trt.MatrixOperation, op)]
        net.mark(net.op("matrix_multiply", *operands))
        same_bits(net.run(feeds)["y"], matrices[0] @ matrices[1])


def test_lengths_that_are_never_zero_cost_nothing():
    net = Net()
    operations = net.trt.MatrixOperation
    x, z = net.input("a", "FLOAT", (-1, 3, 5)), net.input("b", "FLOAT", (-1, 4, 5))
    net.mark(net.op("matrix_multiply", x, operations.NONE, z, operations.TRANSPOSE))
    kinds = {}
    for least in (0, 1):
        (segment,) = lower(net.network, net.trt, {"a": (least, 3, 5), "b": (1, 4, 5)}).steps
        kinds[least] = [node.op_type for node in segment.model.graph.node]
    assert kinds[1] == ["FusedMatMul"]
    assert "Slice" in kinds[0]


@covered(tokens=[0, 1, 5], bias_shape=[(4,), (1, 4)])
def test_product_with_bias_is_one_gemm(tokens, bias_shape):
    a, weight, bias = whole("FLOAT", (tokens, 6)), whole("FLOAT", (4, 6), 1), whole("FLOAT", (1, 4), 2)
    net = Net()
    operations = net.trt.MatrixOperation
    x = net.input("a", "FLOAT", (-1, 6))
    product = net.op("matrix_multiply", x, operations.NONE, net.constant(weight), operations.TRANSPOSE)
    added = net.constant(bias.reshape(bias_shape))
    if bias_shape == (4,):
        added = net.op("shuffle", added, reshape_dims=(1, 4))
    net.mark(net.op("elementwise", product, added, net.trt.ElementWiseOperation.SUM))
    segment = net.segment()
    assert [node.op_type for node in segment.model.graph.node] == ["Gemm"]
    same_bits(net.run({"a": a})["y"], a @ weight.T + bias)


def test_product_that_is_read_twice_keeps_its_own_value():
    a, weight, bias = whole("FLOAT", (3, 6)), whole("FLOAT", (4, 6), 1), whole("FLOAT", (1, 4), 2)
    net = Net()
    operations = net.trt.MatrixOperation
    product = net.op(
        "matrix_multiply",
        net.input("a", "FLOAT", (3, 6)),
        operations.NONE,
        net.constant(weight),
        operations.TRANSPOSE,
    )
    net.mark(net.op("elementwise", product, net.constant(bias), net.trt.ElementWiseOperation.SUM), "sum")
    net.mark(product, "product")
    got = net.run({"a": a})
    same_bits(got["product"], a @ weight.T)
    same_bits(got["sum"], a @ weight.T + bias)
