"""Quantize and dequantize layers, and the types INT8, FP8 and INT4, against numpy and ml_dtypes."""

import numpy as np
import pytest
from lowered_net import LEVELS, NUMPY, QUANTIZED, Net, optimized_ops, same_bits
from sampling import covered

from trtllm_ext.lowering import LoweringError

BUDGET_S = 6

FLOATS = ("FLOAT", "HALF", "BF16")
FP8 = QUANTIZED["FP8"]


def quantized(wide, scale, to="INT8"):
    """`clamp(round(wide / scale))` of float32 arrays, in numpy and ml_dtypes."""
    with np.errstate(over="ignore", invalid="ignore"):
        quotient = wide.astype(np.float32) / np.asarray(scale).astype(np.float32)
    if to == "FP8":
        return np.clip(quotient, -448, 448).astype(FP8)
    low, high = (-8, 7) if to == "INT4" else (-128, 127)
    return np.clip(np.nan_to_num(np.rint(quotient), nan=0.0), low, high).astype(np.int8)


def quantize(x, scale, to="INT8", axis=-1, *, scale_type="FLOAT", shape=None, level="ALL"):
    """A network of one quantize layer, run."""
    net = Net()
    data = net.input("x", next(name for name, one in NUMPY.items() if one == x.dtype), shape or x.shape)
    factor = net.constant(np.asarray(scale, np.float32).astype(NUMPY[scale_type]))
    net.mark(net.op("quantize", data, factor, getattr(net.trt.DataType, to), axis=axis))
    return net.run({"x": x}, level)["y"]


def dequantize(x, scale, to="FLOAT", axis=-1, *, shape=None):
    net = Net()
    data = net.input("x", "INT8" if x.dtype == np.int8 else "FP8", shape or x.shape)
    net.mark(
        net.op(
            "dequantize",
            data,
            net.constant(np.asarray(scale, np.float32)),
            getattr(net.trt.DataType, to),
            axis=axis,
        )
    )
    return net.run({"x": x})["y"]


def random(shape, dtype=np.float32, seed=0, size=3.0):
    return (np.random.default_rng(seed).normal(size=shape) * size).astype(np.float32).astype(dtype)


def integers(shape, seed=0):
    return np.random.default_rng(seed).integers(-128, 128, shape).astype(np.int8)


@pytest.mark.parametrize("level", LEVELS)
def test_ties_saturation_and_nan_to_int8(level):
    x = np.array(
        [
            0.25,
            0.75,
            1.25,
            -0.25,
            -0.75,
            63.5,
            63.75,
            1e9,
            -64.0,
            -64.25,
            -1e30,
            np.inf,
            -np.inf,
            np.nan,
            -0.0,
        ]
    )
    x = np.tile(x.astype(np.float32), 9)
    want = np.tile(np.array([0, 2, 2, 0, -2, 127, 127, 127, -128, -128, -128, 127, -128, 0, 0], np.int8), 9)
    same_bits(quantize(x, 0.5, level=level), want)


@covered(type_name=("HALF", "BF16"), to=("INT8", "FP8"))
def test_every_narrow_float_is_quantized_as_numpy_and_ml_dtypes_do(type_name, to):
    x = np.arange(65536, dtype=np.uint16).view(NUMPY[type_name])
    for scale in (1.0, 0.4):
        got, want = quantize(x, scale, to), quantized(x, scale, to)
        same_bits(got, want)


@covered(type_name=FLOATS, to=("INT8", "FP8"))
def test_scale_by_channel(type_name, to):
    x = random((2, 3, 4), NUMPY[type_name])
    scale = np.array([0.5, 0.031, 0.2], np.float32)
    same_bits(quantize(x, scale, to, axis=1), quantized(x, scale[:, None], to))
    narrow = scale.astype(NUMPY[type_name])
    same_bits(quantize(x, scale, to, axis=1, scale_type=type_name), quantized(x, narrow[:, None], to))


@covered(shape=[(0,), (2, 0, 3), (1,)], to=("INT8", "FP8"))
def test_empty_and_dynamic_shapes(shape, to):
    x = random(shape)
    dynamic = (-1,) * len(shape)
    same_bits(quantize(x, 0.1, to, shape=dynamic), quantized(x, 0.1, to))
    y = quantized(x, 0.1, to)
    same_bits(dequantize(y, 0.1, shape=dynamic), y.astype(np.float32) * np.float32(0.1))


@covered(to=FLOATS, source=("INT8", "FP8"))
def test_dequantize_every_value(source, to):
    x = np.arange(256, dtype=np.uint8).view(QUANTIZED[source])
    want = (x.astype(np.float32) * np.float32(0.37)).astype(NUMPY[to])
    same_bits(dequantize(x, 0.37, to), want)
    rows = np.stack([x, x])
    scale = np.array([0.37, 2.5], np.float32)
    same_bits(
        dequantize(rows, scale, to, axis=0), (rows.astype(np.float32) * scale[:, None]).astype(NUMPY[to])
    )


@pytest.mark.parametrize("blocked", (-1, -2))
def test_blocks_of_fp8(blocked):
    x, axis = random((2, 6, 8)), 3 + blocked
    scale = np.abs(random((2, 6, 4) if blocked == -1 else (2, 2, 8), seed=1)) + 0.1
    spread = np.repeat(scale, x.shape[axis] // scale.shape[axis], axis)
    y = quantized(x, spread, "FP8")
    same_bits(quantize(x, scale, "FP8"), y)
    same_bits(quantize(x, scale, "FP8", shape=(-1, 6, 8)), y)
    same_bits(dequantize(y, scale, "HALF"), (y.astype(np.float32) * spread).astype(np.float16))
    empty = np.empty((0, 6, 8), np.float32)
    assert quantize(empty, scale[:0], "FP8", shape=(-1, 6, 8)).shape == (0, 6, 8)


def test_scale_of_every_element():
    x, scale = random((3, 4)), np.abs(random((3, 4), seed=2)) + 0.1
    same_bits(quantize(x, scale, "FP8"), quantized(x, scale, "FP8"))


def int4_constant(net, values):
    """Weights of INT4, two in a byte and the first in the lower half."""
    flat = np.append(values.reshape(-1), np.zeros(values.size % 2, np.int8)).view(np.uint8) & 15
    packed = np.ascontiguousarray(flat[0::2] | flat[1::2] << 4)
    net.alive.append(packed)
    weights = net.trt.Weights(net.trt.int4, packed.ctypes.data, values.size)
    return net.network.add_constant(values.shape, weights).get_output(0)


@pytest.mark.parametrize("shape", [(4, 6), (3, 5), (40, 64)])
def test_int4_weights(shape):
    values = np.random.default_rng(3).integers(-8, 8, shape).astype(np.int8)
    scale = np.linspace(0.1, 2.0, shape[0], dtype=np.float32)
    net = Net()
    net.mark(net.op("dequantize", int4_constant(net, values), net.constant(scale), net.trt.float16, axis=0))
    same_bits(net.run({})["y"], (values * scale[:, None]).astype(np.float16))


def test_int4_weights_in_blocks_multiply():
    values = np.random.default_rng(3).integers(-8, 8, (8, 6)).astype(np.int8)
    scale = np.abs(random((2, 6))) + 0.1
    net, x = Net(), random((3, 8), seed=5)
    weights = net.op("dequantize", int4_constant(net, values), net.constant(scale))
    none = net.trt.MatrixOperation.NONE
    net.mark(net.op("matrix_multiply", net.input("x", "FLOAT", (-1, 8)), none, weights, none))
    np.testing.assert_allclose(
        net.run({"x": x})["y"], x @ (values * np.repeat(scale, 4, 0)), rtol=1e-5, atol=1e-5
    )


def test_quantize_to_int4_and_back():
    x = random((5, 4), size=6.0)
    net = Net()
    q = net.op("quantize", net.input("x", "FLOAT", (5, 4)), net.constant(np.float32(0.75)), net.trt.int4)
    net.mark(net.op("dequantize", q, net.constant(np.float32(0.75))))
    same_bits(net.run({"x": x})["y"], quantized(x, 0.75, "INT4") * np.float32(0.75))


# Casts and movement


@covered(source=("FLOAT", "HALF", "BF16", "INT32", "INT64", "BOOL"), to=("INT8", "FP8"))
def test_casts_there_and_back(source, to):
    x = np.array([-300.0, -128.5, -7.75, -1.0, 0.0, 1.0, 0.3, 2.5, 100.0, 126.9]).astype(NUMPY[source])
    net = Net()
    there = net.op("cast", net.input("x", source, x.shape), getattr(net.trt.DataType, to))
    net.mark(there, "there")
    net.mark(net.op("cast", there, getattr(net.trt.DataType, source)), "back")
    got = net.run({"x": x})
    if to == "INT8" and source in FLOATS:
        want = np.clip(np.trunc(x.astype(np.float32)), -128, 127).astype(np.int8)
    else:
        want = (
            x.astype(QUANTIZED[to]) if to == "INT8" else np.clip(x.astype(np.float32), -448, 448).astype(FP8)
        )
    same_bits(got["there"], want)
    same_bits(got["back"], want.astype(np.float32).astype(NUMPY[source]))


@covered(type_name=("INT8", "FP8"), rows=(3, 0))
def test_movement_keeps_every_bit(type_name, rows):
    x = np.arange(256, dtype=np.uint8)[:24].reshape(1, 6, 4).repeat(rows, 0).copy()
    if rows:
        x[0] += 100  # NaN and the largest of FP8 among them
    x = x.view(QUANTIZED[type_name])
    net = Net()
    data = net.input("x", type_name, (-1, 6, 4))
    index = net.constant(np.array([2, 0], np.int32))
    picks = net.op("cast", net.constant(np.array([[[1], [0]] * 3], np.int32).reshape(1, 6, 1)), net.trt.bool)
    elements = {
        "identity": net.op("identity", data),
        "shuffle": net.op("shuffle", data, first_transpose=(0, 2, 1), reshape_dims=(0, 3, -1)),
        "slice": net.op("slice", data, (0, 1, 0), (1, 2, 4), (1, 2, 1)) if rows else None,
        "concatenation": net.op("concatenation", [data, data], axis=1),
        "gather": net.op("gather", data, index, 1),
        "select": net.op("select", picks, data, data),
    }
    for name, tensor in elements.items():
        if tensor is not None:
            net.mark(tensor, name)
    got = net.run({"x": x})
    want = {
        "identity": x,
        "shuffle": x.transpose(0, 2, 1).reshape(rows, 3, 8),
        "slice": x[:1, 1:4:2],
        "concatenation": np.concatenate([x, x], 1),
        "gather": x[:, [2, 0]],
        "select": x,
    }
    for name, array in got.items():
        assert array.shape == want[name].shape
        assert array.view(np.uint8).tobytes() == want[name].view(np.uint8).tobytes(), name


@pytest.mark.parametrize("type_name", ("INT8", "FP8"))
def test_constants(type_name):
    x = np.arange(256, dtype=np.uint8).view(QUANTIZED[type_name]).reshape(2, 128).repeat(20, 0)
    net = Net()
    net.mark(net.op("shuffle", net.constant(x), first_transpose=(1, 0)), "turned")
    net.mark(net.constant(x), "plain")
    got = net.run({})
    assert got["plain"].tobytes() == x.tobytes()
    assert got["turned"].tobytes() == np.ascontiguousarray(x.T).tobytes()


# Refusals


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan])
def test_scale_must_be_positive(scale):
    with pytest.raises(LoweringError, match=f"a scale must be positive, but one is {scale}"):
        quantize(random((2, 3)), np.array([1.0, scale, 1.0]), axis=1)


def test_zero_point():
    net = Net()
    layer = net.network.add_quantize(net.input("x", "FLOAT", (3,)), net.constant(np.float32(0.5)))
    layer.set_input(2, net.constant(np.int8(0)))
    net.mark(layer.get_output(0))
    x = random((3,))
    same_bits(net.run({"x": x})["y"], quantized(x, 0.5))
    zero = net.constant(np.int32(0))
    layer.set_input(2, net.op("cast", zero, net.trt.int8))
    same_bits(net.run({"x": x})["y"], quantized(x, 0.5))
    layer.set_input(2, net.constant(np.int8(3)))
    with pytest.raises(LoweringError, match="zero point must be 0"):
        net.lower()
    layer.set_input(2, net.input("zero_point", "INT8", ()))
    with pytest.raises(LoweringError, match="zero point must be a constant"):
        net.lower()


def test_arithmetic_on_int8_is_refused():
    net = Net()
    x = net.input("x", "INT8", (3,))
    net.mark(net.op("elementwise", x, x, net.trt.ElementWiseOperation.SUM))
    with pytest.raises(LoweringError, match="arithmetic on INT8 is not supported; dequantize"):
        net.lower()


def test_int4_outputs_are_refused():
    net = Net()
    net.mark(net.op("quantize", net.input("x", "FLOAT", (3,)), net.constant(np.float32(1)), net.trt.int4))
    with pytest.raises(LoweringError, match=r"output 'y'.*4-bit integers may be weights only"):
        net.lower()


def test_nothing_that_the_runtime_fuses_is_emitted(tmp_path):
    """Quantize, movement, dequantize, quantize again: no QuantizeLinear comes of it at any level."""
    net = Net()
    scale = net.constant(np.float32(0.25))
    value = net.op("quantize", net.input("x", "FLOAT", (4, 6)), scale)
    value = net.op("shuffle", value, first_transpose=(1, 0))
    value = net.op("dequantize", value, scale)
    value = net.op("activation", value, net.trt.ActivationType.RELU)
    net.mark(net.op("quantize", value, net.constant(np.float32(0.5))))
    x = random((4, 6))
    want = quantized(np.maximum(quantized(x, 0.25).T * np.float32(0.25), 0), 0.5)
    for level in LEVELS:
        same_bits(net.run({"x": x}, level)["y"], want)
        assert not {"QuantizeLinear", "DequantizeLinear"} & set(optimized_ops(net.segment(), tmp_path, level))
