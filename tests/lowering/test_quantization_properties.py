"""Any quantized product and any scaling, of any shapes and scales, equals numpy's: bit for bit."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from lowered_net import QUANTIZED, Net, same_bits
from sampling import examples

BUDGET_S = 6

LENGTH = st.integers(0, 3)
OPERATIONS = st.sampled_from(["NONE", "TRANSPOSE"])


def integers(draw, shape):
    seed = draw(st.integers(0, 2**16))
    return np.random.default_rng(seed).integers(-128, 128, shape).astype(np.int8)


@st.composite
def scaled(draw, array, banned=None):
    """A scale for an array: (values, axis, as it broadcasts over the array)."""
    axes = [axis for axis in range(array.ndim) if axis != banned]
    axis = draw(st.sampled_from([-1, *axes]))
    generator = np.random.default_rng(draw(st.integers(0, 2**16)))
    count = () if axis < 0 else (array.shape[axis],)
    values = generator.uniform(0.01, 2.0, count).astype(np.float32)
    return values, axis, values.reshape(count + (1,) * (array.ndim - 1 - axis if axis >= 0 else 0))


@st.composite
def products(draw):
    batch = draw(st.lists(LENGTH, max_size=2))
    stretched = [[1 if draw(st.booleans()) else length for length in batch] for _ in range(2)]
    rows, summed, columns = draw(LENGTH), draw(st.integers(0, 20)), draw(LENGTH)
    ops = (draw(OPERATIONS), draw(OPERATIONS))
    a_matrix = [summed, rows] if ops[0] == "TRANSPOSE" else [rows, summed]
    b_matrix = [columns, summed] if ops[1] == "TRANSPOSE" else [summed, columns]
    a, b = integers(draw, stretched[0] + a_matrix), integers(draw, stretched[1] + b_matrix)
    last = a.ndim - 1
    sa = draw(scaled(a, last - (ops[0] == "TRANSPOSE")))
    sb = draw(scaled(b, last - (ops[1] == "NONE")))
    return ops, (a, *sa), (b, *sb), draw(st.booleans()), draw(st.booleans())


@settings(max_examples=examples(150), deadline=None, derandomize=True)
@given(products())
def test_products_are_exact(case):
    ops, left, right, is_dynamic, is_weight = case
    net, feeds, operands = Net(), {}, []
    for name, (array, values, axis, _) in (("a", left), ("b", right)):
        if name == "b" and is_weight:
            tensor = net.constant(array)
        else:
            tensor = net.input(name, "INT8", (-1,) * array.ndim if is_dynamic else array.shape)
            feeds[name] = array
        operands.append(net.op("dequantize", tensor, net.constant(values), axis=axis))
    operations = [getattr(net.trt.MatrixOperation, op) for op in ops]
    net.mark(net.op("matrix_multiply", operands[0], operations[0], operands[1], operations[1]))
    a, b, sa, sb = left[0], right[0], left[3], right[3]
    wide = [np.broadcast_to(scale, array.shape) for scale, array in ((sa, a), (sb, b))]
    turned = [
        [np.swapaxes(one, -1, -2) if op == "TRANSPOSE" else one for one in pair]
        for op, pair in zip(ops, ((a, wide[0]), (b, wide[1])), strict=True)
    ]
    exact = np.matmul(turned[0][0].astype(np.int64), turned[1][0].astype(np.int64)).astype(np.float32)
    if a.size and b.size:
        # Scales are equal along the sum, so any element of it has them.
        exact = exact * (turned[0][1][..., :, :1] * turned[1][1][..., :1, :])
    same_bits(net.run(feeds)["y"], exact)


@st.composite
def tensors(draw):
    shape = draw(st.lists(LENGTH, min_size=1, max_size=4))
    generator = np.random.default_rng(draw(st.integers(0, 2**16)))
    x = (generator.normal(size=shape) * draw(st.sampled_from([0.01, 1.0, 300.0]))).astype(np.float32)
    return x, *draw(scaled(x)), draw(st.sampled_from(["INT8", "FP8"])), draw(st.booleans())


@settings(max_examples=examples(100), deadline=None, derandomize=True)
@given(tensors())
def test_there_and_back(case):
    x, values, axis, spread, to, is_dynamic = case
    net = Net()
    data = net.input("x", "FLOAT", (-1,) * x.ndim if is_dynamic else x.shape)
    factor = net.constant(values)
    there = net.op("quantize", data, factor, getattr(net.trt.DataType, to), axis=axis)
    net.mark(there, "there")
    net.mark(net.op("dequantize", there, factor, axis=axis), "back")
    got = net.run({"x": x})
    quotient = x / spread
    if to == "INT8":
        want = np.clip(np.rint(quotient), -128, 127).astype(np.int8)
    else:
        want = np.clip(quotient, -448, 448).astype(QUANTIZED["FP8"])
    same_bits(got["there"], want)
    same_bits(got["back"], want.astype(np.float32) * spread)
