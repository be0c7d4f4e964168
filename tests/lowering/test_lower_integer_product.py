"""Products of dequantized tensors are exact: the integers' product, scaled once. Against numpy's 64-bit integers."""

import numpy as np
import pytest
from lowered_net import LEVELS, NUMPY, Net, optimized_ops, run_segment, same_bits
from sampling import covered

BUDGET_S = 5


def integers(shape, seed=0):
    return np.random.default_rng(seed).integers(-128, 128, shape).astype(np.int8)


def scales(count, seed=0):
    return (np.random.default_rng(seed).uniform(0.2, 3.0, count) * 1e-2).astype(np.float32)


def exact(a, b, scale, to="FLOAT"):
    """`a @ b` in integers, rounded to float32, times a float32 scale, rounded to the type."""
    return (np.matmul(a.astype(np.int64), b.astype(np.int64)).astype(np.float32) * np.float32(scale)).astype(
        NUMPY[to]
    )


class Product:
    """A network of a matrix product of two dequantized tensors.

    Each operand is given as (array, scale, axis, shape of the network's input or None for a constant).
    """

    def __init__(self, a, b, ops=("NONE", "NONE"), to="FLOAT", turn=None):
        self.net, self.feeds = Net(), {}
        operands = [self.operand(name, *one, to) for name, one in (("a", a), ("b", b))]
        if turn is not None:
            operands[1] = turn(self.net, operands[1])
        op0, op1 = (getattr(self.net.trt.MatrixOperation, op) for op in ops)
        self.net.mark(self.net.op("matrix_multiply", operands[0], op0, operands[1], op1))

    def operand(self, name, array, scale, axis, shape, to):
        if shape is None:
            tensor = self.net.constant(array)
        else:
            tensor = self.net.input(name, "INT8", shape)
            self.feeds[name] = array
        factor = self.net.constant(np.asarray(scale, np.float32))
        return self.net.op("dequantize", tensor, factor, getattr(self.net.trt.DataType, to), axis=axis)

    def run(self, level="ALL"):
        return self.net.run(self.feeds, level)["y"]

    def kinds(self):
        return {node.op_type for node in self.net.segment().model.graph.node}


@covered(level=LEVELS, to=("FLOAT", "HALF", "BF16"), by_row=(False, True), by_column=(False, True))
def test_weight_and_activation(level, to, by_row, by_column, tmp_path):
    """The shapes of a linear layer, (tokens, in) and (out, in); every level of optimisation gives the same bits."""
    a, b = integers((5, 96)), integers((24, 96), 1)
    scale_a = scales(5) if by_row else np.float32(0.031)
    scale_b = scales(24, 1) if by_column else np.float32(0.07)
    product = Product((a, scale_a, 0, a.shape), (b, scale_b, 0, None), ("NONE", "TRANSPOSE"), to)
    factor = (scale_a[:, None] if by_row else scale_a) * scale_b
    same_bits(
        product.run(level), exact(a, b.T, 1, "FLOAT").astype(np.float32).__mul__(factor).astype(NUMPY[to])
    )
    found = optimized_ops(product.net.segment(), tmp_path, level)
    assert found["MatMulInteger"] == 1, found
    assert not set(found) & {"MatMul", "MatMulIntegerToFloat", "QLinearMatMul", "DynamicQuantizeMatMul"}, (
        found
    )


@covered(ops=[(x, y) for x in ("NONE", "TRANSPOSE") for y in ("NONE", "TRANSPOSE")], constant_b=(False, True))
def test_transposed_operands_with_scales_along_what_is_kept(ops, constant_b):
    a, b = integers((7, 33)), integers((33, 6), 1)
    stored = [x.T.copy() if op == "TRANSPOSE" else x for x, op in zip((a, b), ops, strict=True)]
    axes = [1 if ops[0] == "TRANSPOSE" else 0, 0 if ops[1] == "TRANSPOSE" else 1]
    sa, sb = scales(7), scales(6, 1)
    b_shape = None if constant_b else (-1, -1)
    product = Product((stored[0], sa, axes[0], stored[0].shape), (stored[1], sb, axes[1], b_shape), ops)
    same_bits(product.run(), exact(a, b, 1) * (sa[:, None] * sb))


@pytest.mark.parametrize("rows", (0, 1, 3))
def test_dynamic_rows_and_batches(rows):
    a, b = integers((rows, 4, 16)), integers((rows, 16, 5), 1)
    product = Product((a, 0.5, -1, (-1, 4, 16)), (b, 0.25, -1, (-1, 16, 5)))
    same_bits(product.run(), exact(a, b, 0.125))
    # Batches that broadcast, from either side.
    one = integers((1, 4, 16), 2)
    product = Product((one, 0.5, -1, (-1, 4, 16)), (b, 0.25, -1, (-1, 16, 5)))
    same_bits(product.run(), exact(one, b, 0.125))
    product = Product((a, 0.5, -1, (-1, 4, 16)), (integers((1, 16, 5), 3), scales(5), 2, None))
    same_bits(product.run(), exact(a, integers((1, 16, 5), 3), 1) * (np.float32(0.5) * scales(5)))


def test_scale_along_a_batch():
    a, b = integers((3, 4, 8)), integers((3, 8, 2), 1)
    sa, sb = scales(3), scales(3, 1)
    product = Product((a, sa, 0, a.shape), (b, sb, 0, b.shape))
    same_bits(product.run(), exact(a, b, 1) * (sa * sb)[:, None, None])
    assert "MatMulInteger" in product.kinds()


@pytest.mark.parametrize(
    "ops", [("VECTOR", "NONE"), ("NONE", "VECTOR"), ("VECTOR", "TRANSPOSE"), ("VECTOR", "VECTOR")]
)
def test_vectors(ops):
    a = integers((2, 9) if ops[0] == "VECTOR" else (2, 4, 9))
    b = integers((2, 9) if ops[1] == "VECTOR" else (2, 9, 5), 1)
    rows = a[:, None, :] if ops[0] == "VECTOR" else a
    columns = b[:, :, None] if ops[1] == "VECTOR" else b
    stored = b.swapaxes(1, 2).copy() if ops[1] == "TRANSPOSE" else b
    sa, sb = scales(2), scales(2, 1)
    product = Product((a, sa, 0, a.shape), (stored, sb, 0, stored.shape), ops)
    want = exact(rows, columns, 1) * (sa * sb)[:, None, None]
    want = want[..., 0] if ops[1] == "VECTOR" else want
    want = want.reshape(want.shape[:1] + want.shape[2:]) if ops[0] == "VECTOR" else want
    same_bits(product.run(), want)
    assert "MatMulInteger" in product.kinds()


@pytest.mark.parametrize("extreme", (-128, 127))
def test_extremes_do_not_saturate(extreme):
    a, b = np.full((3, 4096), -128, np.int8), np.full((4096, 2), extreme, np.int8)
    product = Product((a, 1.0, -1, a.shape), (b, 1.0, -1, None))
    same_bits(product.run(), np.full((3, 2), -128 * extreme * 4096, np.float32))


def test_long_and_empty_sums_are_exact():
    """A sum of a length not known may be too long for 32 bits, and nothing is what MatMulInteger writes for none."""
    long = np.full((1, 200_000), -128, np.int8)
    for length in (0, 3, 200_000):
        a = long[:, :length].copy()
        product = Product((a, 0.5, -1, (1, -1)), (a.T.copy(), 0.5, -1, (-1, 1)))
        same_bits(product.run(), np.full((1, 1), length * 2.0**14 / 4, np.float32))
        assert "MatMulInteger" not in product.kinds()
    product = Product((long[:, :0].copy(), 0.5, -1, (1, 0)), (long[:, :0].T.copy(), 0.5, -1, (0, 1)))
    same_bits(product.run(), np.zeros((1, 1), np.float32))


def test_through_reshapes_and_transposes():
    a, b, sb = integers((2, 3, 16)), integers((6, 16), 1), scales(6)

    def turned(net, tensor):
        tensor = net.op("shuffle", tensor, reshape_dims=(1, 6, 16))
        return net.op("shuffle", tensor, first_transpose=(0, 2, 1))

    product = Product((a, 0.5, -1, (-1, 3, 16)), (b, sb, 0, None), turn=turned)
    same_bits(product.run(), exact(a, b.T, 1) * (np.float32(0.5) * sb))
    assert "MatMulInteger" in product.kinds()


def test_a_reshape_that_splits_the_scaled_dimension_ends_it():
    a, b, sb = integers((3, 4)), integers((6, 4), 1), scales(6)

    def split(net, tensor):
        return net.op("shuffle", tensor, reshape_dims=(4, 6))

    product = Product((a, 0.5, -1, a.shape), (b, sb, 0, None), turn=split)
    assert "MatMulInteger" not in product.kinds()
    np.testing.assert_allclose(
        product.run(), (a * 0.5) @ (b * sb[:, None]).reshape(4, 6), rtol=1e-5, atol=1e-5
    )


def test_a_scale_along_the_sum_is_a_product_of_floats():
    a, b, sb = integers((3, 8)), integers((8, 4), 1), scales(8)
    product = Product((a, 0.5, -1, a.shape), (b, sb, 0, None))
    assert "MatMulInteger" not in product.kinds()
    np.testing.assert_allclose(product.run(), (a * 0.5) @ (b * sb[:, None]), rtol=1e-5, atol=1e-5)


def test_weights_only_are_dequantized():
    x, b, sb = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32), integers((5, 8), 1), scales(5)
    net = Net()
    weights = net.op("dequantize", net.constant(b), net.constant(sb), axis=0)
    operation = net.trt.MatrixOperation
    net.mark(
        net.op(
            "matrix_multiply", net.input("x", "FLOAT", (-1, 8)), operation.NONE, weights, operation.TRANSPOSE
        )
    )
    np.testing.assert_allclose(net.run({"x": x})["y"], x @ (b * sb[:, None]).T, rtol=1e-5, atol=1e-6)


def test_quantized_in_the_network_and_read_twice():
    """The dequantized tensor is an output too, so that its floats are needed beside its integers."""
    x = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    b, net = integers((8, 5), 1), Net()
    scale = net.constant(np.float32(0.03))
    floats = net.op("dequantize", net.op("quantize", net.input("x", "FLOAT", (-1, 8)), scale), scale)
    weights = net.op("dequantize", net.constant(b), net.constant(np.float32(0.1)))
    none = net.trt.MatrixOperation.NONE
    net.mark(net.op("matrix_multiply", floats, none, weights, none))
    net.mark(floats, "floats")
    quantized = np.clip(np.rint(x / np.float32(0.03)), -128, 127).astype(np.int8)
    for level in LEVELS:
        got = run_segment(net.segment(), {"x": x}, level)
        same_bits(got["floats"], quantized * np.float32(0.03))
        same_bits(got["y"], exact(quantized, b, np.float32(0.03) * np.float32(0.1)))


@pytest.mark.parametrize("level", LEVELS)
def test_computed_scales(level, tmp_path):
    """Scales that the run computes are multiplied with each other there, and still nothing is fused."""
    a, b, net = integers((4, 16)), integers((16, 5), 1), Net()
    sa, sb = net.input("sa", "FLOAT", (-1,)), net.input("sb", "FLOAT", ())
    left = net.op("dequantize", net.input("a", "INT8", (-1, 16)), sa, axis=0)
    right = net.op("dequantize", net.constant(b), sb)
    none = net.trt.MatrixOperation.NONE
    net.mark(net.op("matrix_multiply", left, none, right, none))
    feeds = {"a": a, "sa": scales(4), "sb": np.float32(0.3)}
    same_bits(net.run(feeds, level)["y"], exact(a, b, 1) * (scales(4)[:, None] * np.float32(0.3)))
    assert optimized_ops(net.segment(), tmp_path, level)["MatMulInteger"] == 1
