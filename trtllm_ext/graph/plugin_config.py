"""Which plugins a network uses: none of TensorRT-LLM's, and of this package's those that are asked for."""

from typing import Any

from trtllm_ext.errors import GraphError
from trtllm_ext.suggest import did_you_mean, nearest

# This package's own: None for TensorRT's layers, 'auto' for the plugin wherever its operation has the layer's form and
# type, or one type in which it is used.
OWN_PLUGINS = ("ffn_plugin", "residual_norm_plugin", "gated_activation_plugin")
OWN_CHOICES = ("auto", "float32", "float16", "bfloat16")
# What trtllm-build says, and JSON, for none.
NO_PLUGIN = (None, False, "disable", "disabled")
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


def own_choice(name: str, value: Any) -> str | None:
    """A setting of OWN_PLUGINS as it is kept: None, 'auto', or the name of a type. Raises GraphError for others."""
    if value in NO_PLUGIN:
        return None
    if value not in OWN_CHOICES:
        raise GraphError(
            f"plugin_config.{name} = {value!r} is not known. {nearest(str(value).lower(), OWN_CHOICES)} 'disable' "
            f"(None in Python, null in JSON) is for no plugin."
        )
    return str(value)


class PluginConfig:
    """`Network.plugin_config`: TensorRT-LLM's names, all of them None, and this package's OWN_PLUGINS.

    ffn_plugin: whole feed-forwards, with the skip connection around them where nothing stands between.
    residual_norm_plugin: norms, with the sum of a skip connection that they read.
    gated_activation_plugin: activations of feed-forwards and experts.
    Each is None, 'auto', or a type ('float16'): then for layers of that type alone.
    tf32: whether float32 products in plugins may round their factors to TF32, as BuildConfig.tf32 has it.
    declined: (setting, reason) of each place that kept to TensorRT's layers although a plugin was asked for.

    Code that asks which of TensorRT-LLM's plugins to use is told that there is none, and takes the road of plain
    layers. Setting one to anything but None or False raises GraphError, as an unknown choice does; a name that neither
    has raises AttributeError.
    """

    declined: set[tuple[str, str]]

    def __init__(self) -> None:
        for name in (*OWN_PLUGINS, *_PLUGINS, *_SETTINGS):
            object.__setattr__(self, name, None)
        self.tf32 = False
        self.declined = set()

    def to_legacy_setting(self) -> None:
        """Turn all plugins off, as TensorRT-LLM's method of this name does."""
        for name in OWN_PLUGINS:
            setattr(self, name, None)

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("set_", "enable_")):
            raise AttributeError(
                f"plugin_config.{name}: networks here are made of TensorRT's own layers, so there is nothing to turn "
                f"on. Leave the call out; this package's own plugins are set by name: {', '.join(OWN_PLUGINS)}."
            )
        raise AttributeError(_unknown(name))

    def __setattr__(self, name: str, value: Any) -> None:
        if name in OWN_PLUGINS:
            value = own_choice(name, value)
        elif name not in (*_PLUGINS, *_SETTINGS, "tf32", "declined"):
            raise AttributeError(_unknown(name))
        elif name in _PLUGINS and value not in (None, False):
            raise GraphError(
                f"plugin_config.{name} = {value!r}, but networks here are made of TensorRT's own layers: leave it at "
                "None."
            )
        object.__setattr__(self, name, value)


def _unknown(name: str) -> str:
    known = (*OWN_PLUGINS, *_PLUGINS, *_SETTINGS)
    return f"plugin_config has no {name!r}. {did_you_mean(name, known)}".strip()
