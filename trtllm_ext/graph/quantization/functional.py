"""TensorRT-LLM's `quantization.functional`, composed of plain layers; what needs a compiled plugin is refused by name.

Signatures are those of release 0.16. Types are strict, as in `graph.functional`.
"""

from trtllm_ext.graph.quantization.norms import (
    fp8_rowwise_rms_norm,
    smooth_quant_layer_norm,
    smooth_quant_rms_norm,
)
from trtllm_ext.graph.quantization.products import (
    fp8_rowwise_gemm,
    qserve_gemm_per_channel,
    qserve_gemm_per_group,
    smooth_quant_gemm,
    weight_only_groupwise_quant_matmul,
    weight_only_quant_matmul,
)
from trtllm_ext.graph.quantization.tensors import (
    dequantize,
    quantize,
    quantize_fp8_per_token,
    quantize_per_token,
    quantize_tensor,
)
from trtllm_ext.graph.quantization.weights import (
    change_qkv_leading_dim,
    pad_like,
    postprocess_fp8_rowwise,
    postprocess_weight_only,
    postprocess_weight_only_groupwise,
    preprocess_weights_for_mixed_gemm,
    symmetric_quantize_last_axis_of_batched_matrix,
    unpack_int32_into_int8,
    validate_group_size,
)

__all__ = [
    "change_qkv_leading_dim",
    "dequantize",
    "fp8_rowwise_gemm",
    "fp8_rowwise_rms_norm",
    "pad_like",
    "postprocess_fp8_rowwise",
    "postprocess_weight_only",
    "postprocess_weight_only_groupwise",
    "preprocess_weights_for_mixed_gemm",
    "qserve_gemm_per_channel",
    "qserve_gemm_per_group",
    "quantize",
    "quantize_fp8_per_token",
    "quantize_per_token",
    "quantize_tensor",
    "smooth_quant_gemm",
    "smooth_quant_layer_norm",
    "smooth_quant_rms_norm",
    "symmetric_quantize_last_axis_of_batched_matrix",
    "unpack_int32_into_int8",
    "validate_group_size",
    "weight_only_groupwise_quant_matmul",
    "weight_only_quant_matmul",
]
