"""quantization.functional against its formulas in numpy."""

import inspect

import ml_dtypes
import numpy as np
import pytest
from sampling import covered

from trtllm_ext.errors import GraphError
from trtllm_ext.graph import functional as fn
from trtllm_ext.graph.parameter import Parameter
from trtllm_ext.graph.quantization import functional as qf

BUDGET_S = 8

RNG = np.random.default_rng(21)
FLOATS = [(np.float32, 1e-6), (np.float16, 2e-3), (ml_dtypes.bfloat16, 2e-2)]

NAMES = [
    "change_qkv_leading_dim", "dequantize", "fp8_rowwise_gemm", "fp8_rowwise_rms_norm", "pad_like",
    "postprocess_fp8_rowwise", "postprocess_weight_only", "postprocess_weight_only_groupwise",
    "preprocess_weights_for_mixed_gemm", "qserve_gemm_per_channel", "qserve_gemm_per_group", "quantize",
    "quantize_fp8_per_token", "quantize_per_token", "quantize_tensor", "smooth_quant_gemm", "smooth_quant_layer_norm",
    "smooth_quant_rms_norm", "symmetric_quantize_last_axis_of_batched_matrix", "unpack_int32_into_int8",
    "validate_group_size", "weight_only_groupwise_quant_matmul", "weight_only_quant_matmul",
]  # fmt: skip

SIGNATURES = {
    "dequantize": "(input, scale_factor, axis=-1, output_type='float16')",
    "quantize": "(input, scale_factor, dtype, axis=-1)",
    "quantize_fp8_per_token": "(x, clamp_val=None)",
    "quantize_per_token": "(x, clamp_val=None, scale_dtype='float32', sum_per_token=False, sum_dtype='float32')",
    "quantize_tensor": "(x, scale)",
    "smooth_quant_gemm": "(input, weights, scales_a, scales_b, per_token_scaling, per_channel_scaling, dtype)",
    "smooth_quant_layer_norm": "(input, normalized_shape, weight=None, bias=None, scale=None, eps=1e-05, "
    "use_diff_of_squares=True, dynamic_act_scaling=False)",
    "smooth_quant_rms_norm": "(input, normalized_shape, weight=None, bias=None, scale=None, clamp_val=None, eps=1e-05, "
    "dynamic_act_scaling=False, scale_dtype='float32', sum_per_token=False, sum_dtype='float32')",
    "weight_only_groupwise_quant_matmul": "(input, pre_quant_scale, weights, scales, zeros, biases, alpha, quant_algo, "
    "group_size, dtype='float16')",
    "weight_only_quant_matmul": "(input, weights, scales, weightTypeId, dtype='float16', transa=False, transb=False)",
}

PLUGINS = {
    "fp8_rowwise_gemm": "Fp8RowwiseGemm",
    "fp8_rowwise_rms_norm": "RmsnormQuantization",
    "qserve_gemm_per_channel": "QServeGemm",
    "qserve_gemm_per_group": "QServeGemm",
}


def test_names():
    assert sorted(qf.__all__) == NAMES
    for name in NAMES:
        assert (getattr(qf, name).__doc__ or "").strip(), name


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature(name):
    parameters = inspect.signature(getattr(qf, name)).parameters.values()
    bare = [each.replace(annotation=inspect.Parameter.empty) for each in parameters]
    assert str(inspect.Signature(bare)) == SIGNATURES[name]


@pytest.mark.parametrize("name", PLUGINS)
def test_what_needs_a_plugin_names_it(guarded, name):
    with pytest.raises(GraphError, match=f"{name} needs {PLUGINS[name]}, a compiled plugin"):
        getattr(qf, name)(1)


def int8(x):
    return np.clip(np.rint(x.astype(np.float64)), -128, 127).astype(np.int8)


@pytest.mark.parametrize("dtype, tolerance", FLOATS)
def test_quantize_and_back(run_rounded, dtype, tolerance):
    x = (RNG.normal(size=(3, 4)) * 3).astype(dtype)
    whole, rows = np.array(0.05, np.float32), np.array([0.1, 0.02, 0.5], np.float32)

    def define(x):
        outputs = []
        for scale, axis in ((whole, -1), (rows, 0), (rows, -2)):
            scale = fn.constant(scale)
            steps = qf.quantize(x, scale, "int8", axis)
            outputs += [steps, qf.dequantize(steps, scale, axis, x.dtype)]
        return outputs

    got = run_rounded(define, x, shapes=[(-1, 4) if dtype == np.float32 else (3, 4)])
    for index, scale in enumerate((whole, rows[:, None], rows[:, None])):
        steps = int8(x.astype(np.float32) / scale)
        assert got[2 * index].dtype == np.int8 and got[2 * index + 1].dtype == dtype
        np.testing.assert_array_equal(got[2 * index], steps)
        np.testing.assert_allclose(
            got[2 * index + 1].astype(np.float32), steps * scale.astype(np.float32), rtol=tolerance * 2
        )


def test_ties_and_limits(run_rounded):
    x = np.array([0.5, 1.5, -0.5, -2.5, 127.4, 300, -300], np.float32)
    one = np.array(1, np.float32)
    steps, again = run_rounded(
        lambda x: (qf.quantize(x, fn.constant(one), "int8"), qf.quantize_tensor(x, fn.constant(one))), x
    )
    np.testing.assert_array_equal(steps, [0, 2, 0, -2, 127, 127, -128])
    np.testing.assert_array_equal(again, steps)


@covered(dtype=[each for each, _ in FLOATS], wide_scale=[True, False])
def test_quantize_tensor(run_rounded, dtype, wide_scale):
    x = RNG.normal(size=(4, 6)).astype(dtype)
    scale = np.array([32], np.float32 if wide_scale else dtype)
    got = run_rounded(lambda x: qf.quantize_tensor(x, fn.constant(scale)), x, shapes=[(-1, 6)])
    expected = x.astype(np.float32) * 32
    if not wide_scale:
        expected = expected.astype(dtype).astype(np.float32)
    np.testing.assert_array_equal(got, int8(expected))


@pytest.mark.parametrize("dtype", [each for each, _ in FLOATS])
def test_quantize_per_token(run_rounded, dtype):
    x = RNG.normal(size=(3, 5, 8)).astype(dtype)
    x[1, 2] = 0
    steps, scales, sums = run_rounded(
        lambda x: qf.quantize_per_token(x, sum_per_token=True, scale_dtype="float16"), x, shapes=[(-1, -1, 8)]
    )
    wide = x.astype(np.float32)
    largest = np.abs(wide).max(-1, keepdims=True)
    expected = int8(wide * np.float32(127) / np.maximum(largest, 1e-30))
    assert steps.dtype == np.int8 and scales.dtype == np.float16 and sums.dtype == np.float32
    assert np.abs(steps.astype(int) - expected).max() <= 1 and (steps == expected).mean() > 0.95
    np.testing.assert_allclose(scales, largest / 127, rtol=1e-3)
    np.testing.assert_allclose(sums, wide.sum(-1, keepdims=True), atol=1e-5)
    assert not steps[1, 2].any() and scales[1, 2] == 0


def test_limits_before_quantising(run_rounded):
    x = np.array([[4.0, -8.0, 1.0]], np.float32)
    steps, scales = run_rounded(
        lambda x: qf.quantize_per_token(x, fn.constant(np.array([-2, 3], np.float32))), x
    )
    np.testing.assert_array_equal(steps, [[127, -85, 42]])
    np.testing.assert_allclose(scales, [[3 / 127]], rtol=1e-6)


def test_fp8_per_token(run_rounded):
    x = RNG.normal(size=(3, 16)).astype(np.float32)
    steps, scales = run_rounded(qf.quantize_fp8_per_token, x, shapes=[(-1, 16)])
    assert steps.dtype == ml_dtypes.float8_e4m3fn
    np.testing.assert_allclose(scales, np.abs(x).max(-1, keepdims=True) / 448, rtol=1e-6)
    np.testing.assert_allclose(steps.astype(np.float32) * scales, x, rtol=0.07, atol=1e-3)


@covered(per_token=[True, False], per_channel=[True, False])
@pytest.mark.parametrize("dtype, tolerance", FLOATS)
def test_smooth_quant_gemm(run_rounded, per_token, per_channel, dtype, tolerance):
    x = RNG.integers(-128, 128, size=(5, 16)).astype(np.int8)
    w = RNG.integers(-128, 128, size=(6, 16)).astype(np.int8)
    a = RNG.uniform(0.01, 0.02, size=(5, 1) if per_token else (1, 1)).astype(np.float32)
    b = RNG.uniform(0.01, 0.02, size=(1, 6) if per_channel else (1, 1)).astype(np.float32)
    name = {"float32": "float32", "float16": "float16"}.get(np.dtype(dtype).name, "bfloat16")

    def define(x, a):
        scales = a if per_token else fn.constant(np.full((1, 1), a_value, np.float32))
        return qf.smooth_quant_gemm(x, fn.constant(w), scales, fn.constant(b), per_token, per_channel, name)

    a_value = float(a[0, 0])
    if per_token:
        got = run_rounded(define, x, a, shapes=[(-1, 16), (-1, 1)])
    else:
        got = run_rounded(lambda x: define(x, None), x, shapes=[(-1, 16)])
    expected = (x.astype(np.float64) * a) @ (w.astype(np.float64) * b.T).T
    assert got.dtype == dtype
    np.testing.assert_allclose(got.astype(np.float64), expected, rtol=tolerance * 4, atol=tolerance * 40)


@pytest.mark.parametrize("dtype, tolerance", FLOATS)
@pytest.mark.parametrize("transb", [True, False])
def test_weight_only(run_rounded, dtype, tolerance, transb):
    x = RNG.normal(size=(3, 8)).astype(dtype)
    steps = RNG.integers(-128, 128, size=(5, 8) if transb else (8, 5)).astype(np.int8)
    scales = RNG.uniform(0.01, 0.02, size=5).astype(dtype)
    real = steps * (scales[:, None] if transb else scales).astype(np.float32)

    def define(x):
        return [
            qf.weight_only_quant_matmul(
                x, fn.constant(each), fn.constant(scales), 1, "float32", transb=transb
            )
            for each in (steps, real.astype(dtype))
        ]

    expected = x.astype(np.float64) @ (real.T if transb else real)
    whole, rounded = run_rounded(define, x, shapes=[(-1, 8)])
    np.testing.assert_allclose(whole, expected, atol=tolerance * 40)
    np.testing.assert_allclose(rounded, expected, atol=max(tolerance * 40, 0.3 if tolerance > 1e-3 else 0))


def test_weight_only_in_groups(run_rounded):
    x = RNG.normal(size=(3, 8)).astype(np.float32)
    steps = RNG.integers(-8, 8, size=(8, 5)).astype(np.int8)
    scales, zeros = (RNG.uniform(0.1, 0.2, size=(2, 5)).astype(np.float32) for _ in range(2))
    before, bias = RNG.uniform(1, 2, size=(1, 8)).astype(np.float32), RNG.normal(size=5).astype(np.float32)
    alpha = Parameter(np.array([3.0], np.float32))
    each = scales.repeat(4, 0)

    def define(x):
        pieces = [None if each is None else fn.constant(each) for each in (before, scales, zeros, bias)]
        call = qf.weight_only_groupwise_quant_matmul
        return (
            call(x, pieces[0], fn.constant(steps), *pieces[1:], alpha, 15, 4, "float32"),
            call(x, None, fn.constant(steps * each), pieces[1], None, None, None, 0, 4, "float32"),
        )

    every, plain = run_rounded(define, x, shapes=[(-1, 8)])
    np.testing.assert_allclose(plain, x @ (steps * each), rtol=1e-5, atol=1e-5)
    expected = (x * 3 * before) @ (steps * each + zeros.repeat(4, 0)) + bias
    np.testing.assert_allclose(every, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dynamic", [True, False])
def test_norms(run_rounded, dynamic):
    x, w, b = (RNG.normal(size=size).astype(np.float32) for size in ((4, 8), 8, 8))
    scale = np.array([20.0], np.float32)

    def define(x):
        w_, b_, s_ = (fn.constant(each) for each in (w, b, scale))
        outputs = []
        for norm in (qf.smooth_quant_layer_norm, qf.smooth_quant_rms_norm):
            result = norm(x, 8, w_, b_, s_, eps=1e-5, dynamic_act_scaling=dynamic)
            outputs += list(result) if dynamic else [result]
        return outputs

    got = run_rounded(define, x, shapes=[(-1, 8)])
    centred = x - x.mean(-1, keepdims=True)
    layer = centred / np.sqrt(np.mean(centred**2, -1, keepdims=True) + 1e-5) * w + b
    rms = x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-5) * w + b
    for index, expected in enumerate((layer, rms)):
        steps = got[index * (2 if dynamic else 1)]
        factor = 127 / np.abs(expected).max(-1, keepdims=True) if dynamic else scale
        assert np.abs(steps.astype(int) - int8(expected * factor)).max() <= 1
        if dynamic:
            np.testing.assert_allclose(got[2 * index + 1], 1 / factor, rtol=1e-5)


def test_errors(guarded):
    _, add_input = guarded
    x, i = add_input("x", "float32", [2, 3]), add_input("i", "int32", [2, 3])
    one = fn.constant(np.array(1, np.float32))
    for call, text in [
        (lambda: qf.quantize(i, one, "int8"), "input is int32; it takes float32, float16 or bfloat16"),
        (lambda: qf.quantize(x, i, "int8"), "scale_factor is int32"),
        (lambda: qf.quantize(x, one, "int9"), "dtype 'int9' is not known"),
        (lambda: qf.quantize(x, fn.constant(np.ones(3, np.float32)), "int8", 2), "dimension 2 is out of range"),
        (lambda: qf.quantize(x, fn.constant(np.ones(4, np.float32)), "int8", 1), "does not work out|refuses"),
        (lambda: qf.dequantize(x, one), "does not work out|refuses"),
        (lambda: qf.quantize_per_token(i), "x is int32"),
        (lambda: qf.quantize_per_token(x, fn.constant(np.ones(3, np.float32))), r"of shape \(2,\)"),
        (lambda: qf.smooth_quant_gemm(x, x, one, one, False, False, "float32"), "input is float32"),
        (lambda: qf.smooth_quant_rms_norm(x, 3, sum_per_token=True), "comes with dynamic_act_scaling only"),
        (lambda: qf.smooth_quant_rms_norm(x, 3), "needs scale"),
        (lambda: qf.weight_only_quant_matmul(x, x, one, 2), "needs WeightOnlyQuantMatmul"),
        (
            lambda: qf.weight_only_groupwise_quant_matmul(
                x, None, fn.constant(np.ones((3, 2), np.float32)), fn.constant(np.ones((1, 2), np.float32)),
                None, None, None, 4, 3,
            ),
            "asks for pre_quant_scale, which is None",
        ),
    ]:  # fmt: skip
        with pytest.raises(GraphError, match=text):
            call()


def test_weakly_typed(run_rounded):
    x = np.array([[0.6, -3.0]], np.float32)
    scale = np.array(0.5, np.float32)

    def define(x):
        return qf.dequantize(
            qf.quantize(x, fn.constant(scale), "int8"), fn.constant(scale), output_type="float32"
        )

    np.testing.assert_allclose(run_rounded(define, x, strongly_typed=False), [[0.5, -3.0]])
