"""float16 and bfloat16 round once at every layer's edge, at every optimisation level: bit for bit against numpy."""

import numpy as np
from lowered_net import LEVELS, NARROW, NUMPY, Net, same_bits
from sampling import covered

BUDGET_S = 20


def rounded(array, type_name):
    """To the narrow type and back to float32."""
    return np.asarray(array, np.float32).astype(NUMPY[type_name]).astype(np.float32)


def numbers(type_name, shape, seed):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32).astype(NUMPY[type_name])


@covered(level=LEVELS, type_name=NARROW)
def test_chain_of_arithmetic(type_name, level):
    a, w = numbers(type_name, (16, 16), 0), numbers(type_name, (1, 16), 1)
    net = Net()
    ops, unary = net.trt.ElementWiseOperation, net.trt.UnaryOperation
    x, z = net.input("a", type_name, (-1, 16)), net.constant(w)
    y = net.op("elementwise", x, z, ops.PROD)
    y = net.op("elementwise", y, z, ops.SUM)
    y = net.op("elementwise", y, x, ops.SUB)
    y = net.op("unary", y, unary.ABS)
    y = net.op("unary", y, unary.SQRT)
    y = net.op("elementwise", y, z, ops.DIV)
    net.mark(y)
    xf, wf = a.astype(np.float32), w.astype(np.float32)
    expected = rounded(xf * wf, type_name)
    expected = rounded(expected + wf, type_name)
    expected = rounded(expected - xf, type_name)
    expected = rounded(np.sqrt(np.abs(expected)), type_name)
    expected = (expected / wf).astype(NUMPY[type_name])
    same_bits(net.run({"a": a}, level)["y"], expected)


MOVES = {
    "shuffle": lambda net, y: net.op("shuffle", y, first_transpose=net.trt.Permutation([1, 0])),
    "reshape": lambda net, y: net.op("shuffle", y, reshape_dims=(16, 16)),
    "slice": lambda net, y: net.op("slice", y, (0, 0), (16, 16), (1, 1)),
    "reverse": lambda net, y: net.op("slice", y, (15, 0), (16, 16), (-1, 1)),
    "fill": lambda net, y: net.op("slice", y, (-1, 0), (16, 16), (1, 1), mode=net.trt.SampleMode.FILL),
    "concatenation": lambda net, y: net.op("concatenation", [y, y], axis=0),
    "gather": lambda net, y: net.op("gather", y, net.constant(np.array([3, 1], np.int32)), 1),
    "select": lambda net, y: net.op("select", net.input("c", "BOOL", (16, 16)), y, y),
    "identity": lambda net, y: net.op("identity", y),
    "cast": lambda net, y: net.op("cast", net.op("cast", y, net.trt.float32), y.dtype),
}
MOVED = {
    "shuffle": lambda y: y.T,
    "reverse": lambda y: y[::-1],
    "fill": lambda y: np.concatenate([np.zeros_like(y[:1]), y[:-1]]),
    "concatenation": lambda y: np.concatenate([y, y]),
    "gather": lambda y: y[:, [3, 1]],
}


@covered(level=["DISABLE_ALL", "ALL"], type_name=NARROW, move=MOVES)
def test_rounding_before_and_after_movement(type_name, move, level):
    a, w = numbers(type_name, (16, 16), 2), numbers(type_name, (16, 16), 3)
    net = Net()
    ops = net.trt.ElementWiseOperation
    x, z = net.input("a", type_name, (16, 16)), net.input("w", type_name, (16, 16))
    y = MOVES[move](net, net.op("elementwise", x, z, ops.PROD))
    net.mark(net.op("elementwise", y, y, ops.PROD))
    product = rounded(a.astype(np.float32) * w.astype(np.float32), type_name)
    product = MOVED.get(move, lambda y: y)(product)
    feeds = {"a": a, "w": w}
    if move == "select":
        feeds["c"] = np.ones((16, 16), bool)
    same_bits(net.run(feeds, level)["y"], (product * product).astype(NUMPY[type_name]))


@covered(level=LEVELS, type_name=NARROW)
def test_product_bias_activation_residual(type_name, level):
    """Whole numbers keep float32 sums exact, so every bit of the feed-forward sublayer is determined."""
    rng = np.random.default_rng(4)
    a = rng.integers(-40, 41, (5, 32)).astype(np.float32).astype(NUMPY[type_name])
    w1, w2 = (rng.integers(-9, 10, (32, 32)).astype(np.float32).astype(NUMPY[type_name]) for _ in range(2))
    bias = (rng.integers(-99, 100, (1, 32)) / 4).astype(np.float32).astype(NUMPY[type_name])
    net = Net()
    ops, none, turned = (
        net.trt.ElementWiseOperation,
        net.trt.MatrixOperation.NONE,
        net.trt.MatrixOperation.TRANSPOSE,
    )
    x = net.input("a", type_name, (-1, 32))
    y = net.op("matrix_multiply", x, none, net.constant(w1), turned)
    y = net.op("elementwise", y, net.constant(bias), ops.SUM)
    y = net.op("activation", y, net.trt.ActivationType.RELU)
    y = net.op("matrix_multiply", y, none, net.constant(w2), turned)
    net.mark(net.op("elementwise", y, x, ops.SUM))
    wide = [array.astype(np.float32) for array in (a, w1, w2, bias)]
    expected = rounded(wide[0] @ wide[1].T, type_name)
    expected = np.maximum(rounded(expected + wide[3], type_name), 0)
    # All terms are multiples of 1/4 below 2**22 in sum, so any order of summation gives the same float32.
    assert (np.abs(expected) @ np.abs(wide[2]).T).max() < 2**22
    second = rounded(expected @ wide[2].T, type_name)
    expected = (second + wide[0]).astype(NUMPY[type_name])
    same_bits(net.run({"a": a}, level)["y"], expected)


@covered(level=LEVELS, type_name=NARROW)
def test_rms_norm_of_layers_is_not_fused_across_roundings(type_name, level):
    """x / sqrt(mean(x ** 2) + eps) * w written as layers, with a cast to float32 inside: six roundings stay six."""
    a = (np.random.default_rng(5).integers(-8, 9, (4, 16)) / 2).astype(np.float32).astype(NUMPY[type_name])
    w = numbers(type_name, (1, 16), 6)
    net = Net()
    ops = net.trt.ElementWiseOperation
    x = net.op("cast", net.input("a", type_name, (-1, 16)), net.trt.float32)
    square = net.op("elementwise", x, net.constant(np.full((1, 1), 2, np.float32)), ops.POW)
    mean = net.op("reduce", square, net.trt.ReduceOperation.AVG, 2, True)
    root = net.op(
        "unary",
        net.op("elementwise", mean, net.constant(np.full((1, 1), 0.5, np.float32)), ops.SUM),
        net.trt.UnaryOperation.SQRT,
    )
    normal = net.op("cast", net.op("elementwise", x, root, ops.DIV), getattr(net.trt.DataType, type_name))
    net.mark(net.op("elementwise", normal, net.constant(w), ops.PROD))
    wide = a.astype(np.float32)
    root = np.sqrt((wide**2).mean(1, keepdims=True, dtype=np.float32) + np.float32(0.5))
    expected = (rounded(wide / root, type_name) * w.astype(np.float32)).astype(NUMPY[type_name])
    same_bits(net.run({"a": a}, level)["y"], expected)


@covered(level=LEVELS, order=[(1, 0, 2), (0, 2, 1), (2, 0, 1)], type_name=NARROW)
def test_product_of_a_transposed_tensor(type_name, order, level):
    """A product that reads a cast of a transpose crashes ONNX Runtime 1.31 while it optimises; no network makes one."""
    a = np.random.default_rng(7).integers(-9, 10, (4, 4, 4)).astype(np.float32).astype(NUMPY[type_name])
    weight = np.random.default_rng(8).integers(-9, 10, (1, 3, 4)).astype(np.float32).astype(NUMPY[type_name])
    net = Net()
    operations = net.trt.MatrixOperation
    turned = net.op("shuffle", net.input("a", type_name, a.shape), first_transpose=net.trt.Permutation(order))
    net.mark(turned, "turned")
    net.mark(net.op("matrix_multiply", turned, operations.NONE, net.constant(weight), operations.TRANSPOSE))
    got = net.run({"a": a}, level)
    same_bits(got["turned"], a.transpose(order))
    expected = a.transpose(order).astype(np.float32) @ weight.astype(np.float32).swapaxes(1, 2)
    same_bits(got["y"], expected.astype(NUMPY[type_name]))
