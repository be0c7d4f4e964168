"""Which of TensorRT-LLM's plugins a network uses: none of them."""

from typing import Any

from trtllm_ext.errors import GraphError
from trtllm_ext.suggest import did_you_mean

_PLUGINS = (
    "bert_attention_plugin",
    "gpt_attention_plugin",
    "gemm_plugin",
    "gemm_swiglu_plugin",
    "gemm_allreduce_plugin",
    "fp8_rowwise_gemm_plugin",
    "identity_plugin",
    "layernorm_quantization_plugin",
    "lora_plugin",
    "dora_plugin",
    "low_latency_gemm_plugin",
    "low_latency_gemm_swiglu_plugin",
    "mamba_conv1d_plugin",
    "moe_plugin",
    "nccl_plugin",
    "qserve_gemm_plugin",
    "quantize_per_token_plugin",
    "quantize_tensor_plugin",
    "rmsnorm_quantization_plugin",
    "smooth_quant_gemm_plugin",
    "smooth_quant_plugins",
    "weight_only_groupwise_quant_matmul_plugin",
    "weight_only_quant_matmul_plugin",
)
_SETTINGS = (
    "dtype",
    "context_fmha",
    "bert_context_fmha_fp32_acc",
    "manage_weights",
    "multiple_profiles",
    "norm_quant_fusion",
    "paged_kv_cache",
    "paged_state",
    "pp_reduce_scatter",
    "reduce_fusion",
    "remove_input_padding",
    "streamingllm",
    "tokens_per_block",
    "use_fp8_context_fmha",
    "use_fused_mlp",
    "use_paged_context_fmha",
    "user_buffer",
)


class PluginConfig:
    """`Network.plugin_config`: TensorRT-LLM's names, all of them None.

    Code that asks which plugin to use is told that there is none, and takes the road of plain layers. Setting one to
    anything but None or False raises GraphError; a name that TensorRT-LLM does not have raises AttributeError.
    """

    def __init__(self) -> None:
        for name in (*_PLUGINS, *_SETTINGS):
            object.__setattr__(self, name, None)

    def to_legacy_setting(self) -> None:
        """Turn all plugins off, as TensorRT-LLM's method of this name does: here they are off already."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("set_", "enable_")):
            raise AttributeError(
                f"plugin_config.{name}: networks here are made of TensorRT's own layers, so there is nothing to turn "
                "on. Leave the call out."
            )
        raise AttributeError(
            f"plugin_config has no {name!r}. {did_you_mean(name, (*_PLUGINS, *_SETTINGS))}".strip()
        )

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _PLUGINS and name not in _SETTINGS:
            raise AttributeError(
                f"plugin_config has no {name!r}. {did_you_mean(name, (*_PLUGINS, *_SETTINGS))}".strip()
            )
        if name in _PLUGINS and value not in (None, False):
            raise GraphError(
                f"plugin_config.{name} = {value!r}, but networks here are made of TensorRT's own layers: leave it at "
                "None."
            )
        object.__setattr__(self, name, value)
