"""Products of which one or both operands are quantised."""

from typing import Any, NoReturn

import numpy as np

from trtllm_ext.graph.functional.activations import clip
from trtllm_ext.graph.functional.constants import cast, constant
from trtllm_ext.graph.functional.elementwise import add, div, mul
from trtllm_ext.graph.functional.operands import require_tensor
from trtllm_ext.graph.functional.plugins import needs_plugin
from trtllm_ext.graph.functional.product import matmul
from trtllm_ext.graph.functional.repetition import repeat_interleave
from trtllm_ext.graph.functional.shaping import flatten, view
from trtllm_ext.graph.functional.unary import round
from trtllm_ext.graph.layer import fail
from trtllm_ext.graph.quantization.tensors import dequantize, quantize
from trtllm_ext.graph.tensor import Tensor
from trtllm_ext.runtime.dtypes import readable

_INT4_PACKED = 2

# Bits of quant_algo.
_BIAS, _ZERO, _PRE_QUANT_SCALE, _ALPHA = 1, 2, 4, 8


def smooth_quant_gemm(
    input: Tensor,
    weights: Tensor,
    scales_a: Tensor,
    scales_b: Tensor,
    per_token_scaling: bool,
    per_channel_scaling: bool,
    dtype: Any,
) -> Tensor:
    """(input * scales_a) @ (weights * scales_b) transposed, in `dtype`.

    input: int8 (tokens, in). weights: int8 (out, in).
    scales_a: float32, (tokens, 1) with per_token_scaling, else one number. scales_b: float32, (1, out) with
    per_channel_scaling, else one number.
    """
    for name, operand in (("input", input), ("weights", weights)):
        if readable(require_tensor(operand, name).dtype) != "int8":
            raise fail(f"{name} is {readable(operand.dtype)}; smooth_quant_gemm takes int8")
    channel = flatten(scales_b) if per_channel_scaling else view(scales_b, [])
    if not per_token_scaling:
        left = dequantize(input, view(scales_a, []), 0, dtype)
        return matmul(left, dequantize(weights, channel, 0, dtype), transb=True, use_fp32_acc=False)
    # The scales of tokens are known at run time only: they multiply the product.
    one = constant(np.ones((), dtype=np.float32))
    left, right = dequantize(input, one, 0, "float32"), dequantize(weights, channel, 0, "float32")
    product = mul(matmul(left, right, transb=True), view(scales_a, [-1, 1]))
    return cast(product, dtype)


def weight_only_quant_matmul(
    input: Tensor,
    weights: Tensor,
    scales: Tensor,
    weightTypeId: int,
    dtype: Any = "float16",
    transa: bool = False,
    transb: bool = False,
) -> Tensor:
    """input @ (weights * scales), in `dtype`.

    weights: (in, out), or (out, in) with transb; int8 in its natural order, or floats, which are quantised first.
    scales: (out,), float32 or of the input's type. weightTypeId: 1 for int8; 2, packed int4, needs a plugin.
    transa: whether `input` is transposed.
    """
    if weightTypeId == _INT4_PACKED:
        raise needs_plugin(
            "weight_only_quant_matmul of packed int4", "WeightOnlyQuantMatmul", "Unpack the weights to int8."
        )
    axis = 0 if transb else 1
    if readable(require_tensor(weights, "weights").dtype) != "int8":
        weights = quantize(weights, scales, "int8", axis)
    floats = dequantize(weights, scales, axis, input.dtype)
    return cast(matmul(input, floats, transa, transb), dtype)


def weight_only_groupwise_quant_matmul(
    input: Tensor,
    pre_quant_scale: Tensor | None,
    weights: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    biases: Tensor | None,
    alpha: Any,
    quant_algo: int,
    group_size: int,
    dtype: Any = "float16",
) -> Tensor:
    """input @ (weights * scales + zeros) + biases, with scales for groups of rows of the weights, in `dtype`.

    weights: (in, out); int8, or floats, which are rounded to multiples of their scales (-128 to 127 of them).
    scales, zeros: (in / group_size, out). All floats are of one type.
    quant_algo: sum of 1 (biases), 2 (zeros), 4 (the input times pre_quant_scale), 8 (the input times alpha, a Parameter
    of one element). What is not asked for is not looked at.
    """
    each_row = repeat_interleave(scales, group_size, 0)
    if readable(require_tensor(weights, "weights").dtype) == "int8":
        steps = cast(weights, scales.dtype)
    else:
        steps = clip(round(div(weights, each_row)), -128.0, 127.0)
    floats = mul(steps, each_row)
    if quant_algo & _ZERO:
        floats = add(floats, repeat_interleave(_given(zeros, "zeros"), group_size, 0))
    if quant_algo & _ALPHA:
        input = mul(input, cast(_given(alpha, "alpha").value, input.dtype))
    if quant_algo & _PRE_QUANT_SCALE:
        input = mul(input, _given(pre_quant_scale, "pre_quant_scale"))
    result = matmul(input, floats)
    if quant_algo & _BIAS:
        result = add(result, _given(biases, "biases"))
    return cast(result, dtype)


def qserve_gemm_per_group(*args: Any, **kwargs: Any) -> NoReturn:
    """Not available: int8 by int4 in groups by the plugin QServeGemm."""
    raise needs_plugin("qserve_gemm_per_group", "QServeGemm", _INSTEAD)


def qserve_gemm_per_channel(*args: Any, **kwargs: Any) -> NoReturn:
    """Not available: int8 by int4 with a scale by channel by the plugin QServeGemm."""
    raise needs_plugin("qserve_gemm_per_channel", "QServeGemm", _INSTEAD)


def fp8_rowwise_gemm(*args: Any, **kwargs: Any) -> NoReturn:
    """Not available: fp8 by fp8 with scales by row by the plugin Fp8RowwiseGemm."""
    raise needs_plugin("fp8_rowwise_gemm", "Fp8RowwiseGemm", _INSTEAD)


_INSTEAD = "Use dequantize on both operands and matmul."


def _given(value: Any, name: str) -> Any:
    if value is None:
        raise fail(f"quant_algo asks for {name}, which is None")
    return value
