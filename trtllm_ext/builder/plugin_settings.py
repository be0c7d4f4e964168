"""`plugin_config` of a build config: this package's plugins, and trtllm-build's, which are refused where asked for."""

from collections.abc import Iterator, Mapping
from typing import Any

from trtllm_ext.errors import GraphError
from trtllm_ext.graph.plugin_config import NO_PLUGIN, OWN_PLUGINS, own_choice
from trtllm_ext.suggest import nearest

# PluginConfig of TensorRT-LLM: names of switches that only say how it lays out or fuses its own decoders.
_LAYOUT_SWITCHES = frozenset(
    """
    dtype context_fmha bert_context_fmha_fp32_acc paged_kv_cache paged_state remove_input_padding
    tokens_per_block use_paged_context_fmha use_fp8_context_fmha use_fused_mlp smooth_quant_plugins
    norm_quant_fusion
    """.split()  # noqa: SIM905 - a table is read by the line
)
_PLUGINS = frozenset(
    """
    bert_attention_plugin gpt_attention_plugin gemm_plugin gemm_swiglu_plugin low_latency_gemm_plugin
    low_latency_gemm_swiglu_plugin nccl_plugin moe_plugin mamba_conv1d_plugin fp8_rowwise_gemm_plugin
    qserve_gemm_plugin identity_plugin lora_plugin smooth_quant_gemm_plugin
    layernorm_quantization_plugin rmsnorm_quantization_plugin weight_only_quant_matmul_plugin
    weight_only_groupwise_quant_matmul_plugin quantize_per_token_plugin quantize_tensor_plugin
    gemm_allreduce_plugin dora_plugin streamingllm reduce_fusion user_buffer pp_reduce_scatter
    fuse_fp4_quant multiple_profiles manage_weights
    """.split()  # noqa: SIM905 - a table is read by the line
)


def plugin_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each unknown name or choice, and each that asks for one of TensorRT-LLM's plugins by type.

    "auto" leaves those to us.
    """
    known = {*OWN_PLUGINS, *_LAYOUT_SWITCHES, *_PLUGINS}
    for name, value in values.items():
        if name in OWN_PLUGINS:
            try:
                own_choice(name, value)
            except GraphError as problem:
                yield str(problem)
        elif name not in known:
            yield f"unknown plugin_config key {name!r}. {nearest(name, sorted(known))}"
        elif name in _PLUGINS and value not in (*NO_PLUGIN, "auto"):
            yield (
                f"plugin_config: {name}={value!r} asks for a plugin, and this build has none of TensorRT-LLM's; use "
                f"null, 'auto', which leaves the choice to it, or leave it out. Its own are {', '.join(OWN_PLUGINS)}."
            )
