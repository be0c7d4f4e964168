"""Engines with quantized weights and tensors: plans, load modes, refit, INT8 and FP8 as inputs and outputs."""

import ml_dtypes
import numpy as np
import pytest
from tiny_plans import Log, config_with, context_of, run_context, strongly_typed

import trtllm_ext.embedded as trt

BUDGET_S = 5

FP8 = np.dtype(ml_dtypes.float8_e4m3fn)
IN, OUT = 96, 200


@pytest.fixture
def log():
    return Log()


def integers(shape, seed=0):
    return np.random.default_rng(seed).integers(-128, 128, shape).astype(np.int8)


def scales(count, seed=0):
    return np.random.default_rng(seed).uniform(0.01, 0.1, count).astype(np.float32)


class Linear:
    """y = dequantize(x) dequantize(w)^T, x (rows, IN) INT8 and w (OUT, IN) INT8 with a scale by row each."""

    def __init__(self, rows, seed=0, unscaled_rows=False):
        self.w, self.sw = integers((OUT, IN), seed), scales(OUT, seed)
        self.sx = np.float32(0.031) if unscaled_rows else scales(rows, seed + 1)

    def define(self, network, rows):
        def dequantized(tensor, scale):
            factor = network.add_constant(scale.shape, trt.Weights(scale)).get_output(0)
            layer = network.add_dequantize(tensor, factor)
            layer.axis = 0
            return layer.get_output(0)

        x = network.add_input("x", trt.int8, (rows, IN))
        weights = network.add_constant(self.w.shape, trt.Weights(self.w)).get_output(0)
        operation = trt.MatrixOperation
        product = network.add_matrix_multiply(
            dequantized(x, np.asarray(self.sx)),
            operation.NONE,
            dequantized(weights, self.sw),
            operation.TRANSPOSE,
        )
        output = product.get_output(0)
        output.name = "y"
        network.mark_output(output)

    def run(self, x):
        exact = (x.astype(np.int64) @ self.w.T.astype(np.int64)).astype(np.float32)
        return exact * (np.atleast_1d(self.sx)[:, None] * self.sw)


def linear_plan(log, model, rows, *flags, name=None):
    builder = trt.Builder(log)
    network = strongly_typed(builder)
    model.define(network, rows)
    if name is not None:
        assert network.set_weights_name(trt.Weights(model.w), name)
    config = config_with(builder, {"x": ((0, IN), (4, IN), (64, IN))} if rows == -1 else {})
    for flag in flags:
        config.set_flag(flag)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None, log.said
    return plan


@pytest.mark.parametrize("load_mode", ["prepack", "mapped"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_products_are_exact_in_both_load_modes(log, load_mode, dynamic):
    """Weights, and scales by row and by column, of more than what stays inside the model."""
    model = Linear(40, unscaled_rows=dynamic)
    runtime = trt.Runtime(log)
    runtime.load_mode = load_mode
    engine = runtime.deserialize_cuda_engine(linear_plan(log, model, -1 if dynamic else 40))
    assert engine is not None, log.said
    context = engine.create_execution_context()
    for rows in (40, 1, 0) if dynamic else (40,):
        x = integers((rows, IN), seed=9)
        y = run_context(context, {"x": x}, {"y": np.float32})["y"]
        np.testing.assert_array_equal(y, model.run(x))


def test_refit_of_integer_weights(log):
    old, new = Linear(40), Linear(40, seed=5)
    new.sx, new.sw = old.sx, old.sw
    context = context_of(linear_plan(log, old, 40, trt.BuilderFlag.REFIT, name="w"), log)
    x = integers((40, IN), seed=9)
    np.testing.assert_array_equal(run_context(context, {"x": x}, {"y": np.float32})["y"], old.run(x))
    refitter = trt.Refitter(context.engine, log)
    assert refitter.set_named_weights("w", trt.Weights(new.w)), log.said
    assert refitter.refit_cuda_engine(), log.said
    np.testing.assert_array_equal(run_context(context, {"x": x}, {"y": np.float32})["y"], new.run(x))


@pytest.mark.parametrize(("dtype", "storage"), [(trt.int8, np.dtype(np.int8)), (trt.fp8, FP8)])
@pytest.mark.parametrize("rows", [5, 0])
def test_inputs_outputs_and_constants(log, dtype, storage, rows):
    """What goes in comes out, beside rows of a constant, bit for bit."""
    fixed = np.arange(256, dtype=np.uint8).reshape(16, 16).view(storage)
    builder = trt.Builder(log)
    network = strongly_typed(builder)
    x = network.add_input("x", dtype, (-1, 16))
    weights = trt.Weights(dtype, fixed.ctypes.data, fixed.size)
    joined = network.add_concatenation([network.add_constant(fixed.shape, weights).get_output(0), x])
    joined.axis = 0
    output = joined.get_output(0)
    output.name = "y"
    network.mark_output(output)
    plan = builder.build_serialized_network(network, config_with(builder, {"x": ((0, 16), (4, 16), (8, 16))}))
    assert plan is not None, log.said
    context = context_of(plan, log)
    assert context.engine.get_tensor_dtype("x") == context.engine.get_tensor_dtype("y") == dtype
    given = np.random.default_rng(0).integers(0, 256, (rows, 16)).astype(np.uint8).view(storage)
    y = run_context(context, {"x": given}, {"y": storage})["y"]
    assert y.tobytes() == fixed.tobytes() + given.tobytes()


def test_weights_filled_after_they_were_given(log):
    """The buffer is read when the engine is built."""
    values = np.zeros((4, 4), np.int8)
    builder = trt.Builder(log)
    network = strongly_typed(builder)
    constant = network.add_constant((4, 4), trt.Weights(trt.int8, values.ctypes.data, 16)).get_output(0)
    scale = np.array(0.5, np.float32)
    factor = network.add_constant((), trt.Weights(scale)).get_output(0)
    output = network.add_dequantize(constant, factor).get_output(0)
    output.name = "y"
    network.mark_output(output)
    values[:] = integers((4, 4))
    context = context_of(builder.build_serialized_network(network, builder.create_builder_config()), log)
    np.testing.assert_array_equal(run_context(context, {}, {"y": np.float32})["y"], values * np.float32(0.5))


def test_fp4_weights_are_refused(log):
    values = np.zeros(8, np.uint8)
    builder = trt.Builder(log)
    network = strongly_typed(builder)
    layer = network.add_constant((4, 4), trt.Weights(trt.fp4, values.ctypes.data, 16))
    network.mark_output(layer.get_output(0))
    assert builder.build_serialized_network(network, builder.create_builder_config()) is None
    assert "FP4" in log.last


def test_what_there_is_no_type_of_numpy_for():
    assert trt.nptype(trt.int8) is np.int8
    for dtype in (trt.fp8, trt.int4, trt.fp4):
        with pytest.raises(TypeError, match="Could not resolve TensorRT datatype"):
            trt.nptype(dtype)
    packed = np.array([0x21, 0xF8, 0x07], np.uint8)
    weights = trt.Weights(trt.int4, packed.ctypes.data, 5)
    assert (weights.nbytes, weights.size, weights.dtype) == (3, 5, trt.int4)
    assert weights.numpy() is weights
    np.testing.assert_array_equal(weights.packed_bytes(), packed)
