"""Norms whose result is quantised."""

from collections.abc import Sequence
from typing import Any, NoReturn

from trtllm_ext.graph.functional.elementwise import add
from trtllm_ext.graph.functional.normalization import layer_norm, rms_norm
from trtllm_ext.graph.functional.operands import require_tensor
from trtllm_ext.graph.functional.plugins import needs_plugin
from trtllm_ext.graph.layer import fail
from trtllm_ext.graph.quantization.tensors import quantize_per_token, quantize_tensor
from trtllm_ext.graph.tensor import Tensor

Quantized = Tensor | tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]


def smooth_quant_layer_norm(
    input: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    scale: Tensor | None = None,
    eps: float = 1e-05,
    use_diff_of_squares: bool = True,
    dynamic_act_scaling: bool = False,
) -> Quantized:
    """`layer_norm`, then `quantize_tensor` with `scale`, or `quantize_per_token` with dynamic_act_scaling."""
    normed = layer_norm(input, normalized_shape, weight, bias, eps, use_diff_of_squares)
    return quantize_per_token(normed) if dynamic_act_scaling else quantize_tensor(normed, _given(scale))


def smooth_quant_rms_norm(
    input: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    scale: Tensor | None = None,
    clamp_val: Tensor | None = None,
    eps: float = 1e-05,
    dynamic_act_scaling: bool = False,
    scale_dtype: Any = "float32",
    sum_per_token: bool = False,
    sum_dtype: Any = "float32",
) -> Quantized:
    """`rms_norm` plus `bias`, then `quantize_tensor` with `scale`, or `quantize_per_token` with dynamic_act_scaling.

    clamp_val, scale_dtype, sum_per_token, sum_dtype: of `quantize_per_token`.
    Raises GraphError for sum_per_token without dynamic_act_scaling, and when there is no scale for the static form.
    """
    if sum_per_token and not dynamic_act_scaling:
        raise fail("sum_per_token comes with dynamic_act_scaling only; sum what is normalised otherwise")
    normed = rms_norm(input, normalized_shape, weight=weight, eps=eps)
    if bias is not None:
        normed = add(normed, bias)
    if dynamic_act_scaling:
        return quantize_per_token(normed, clamp_val, scale_dtype, sum_per_token, sum_dtype)
    return quantize_tensor(normed, _given(scale))


def fp8_rowwise_rms_norm(*args: Any, **kwargs: Any) -> NoReturn:
    """Not available: an RMS norm with an fp8 result by the plugin RmsnormQuantization."""
    raise needs_plugin(
        "fp8_rowwise_rms_norm", "RmsnormQuantization", "Use rms_norm and quantize_fp8_per_token."
    )


def _given(scale: Tensor | None) -> Tensor:
    if scale is None:
        raise fail("a static quantised norm needs scale; or set dynamic_act_scaling")
    return require_tensor(scale, "scale")
