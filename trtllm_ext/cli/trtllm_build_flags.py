"""Flags of trtllm-build that `build` has no use for, taken over so that its command lines keep working.

A value that asks for nothing is accepted, any other refused with the reason. For settings of BuildConfig, its
plugin_config included, BuildConfig is the judge; the rest is in the table OTHERS.
"""

import argparse
from typing import Any

from trtllm_ext.errors import ConfigError
from trtllm_ext.graph.plugin_config import OWN_PLUGINS

# Settings of BuildConfig with a value, and those that a bare flag turns on: flag -> setting.
VALUES = {
    "max_decoder_seq_len": "max_seq_len",
    "max_beam_width": "max_beam_width",
    "max_encoder_input_len": "max_encoder_input_len",
    "max_prompt_embedding_table_size": "max_prompt_embedding_table_size",
    "max_multimodal_len": "max_prompt_embedding_table_size",
    "max_draft_len": "max_draft_len",
    "speculative_decoding_mode": "speculative_decoding_mode",
    "kv_cache_type": "kv_cache_type",
    "visualize_network": "visualize_network",
}
SWITCHES = {
    "gather_context_logits": "gather_context_logits",
    "gather_generation_logits": "gather_generation_logits",
    "monitor_memory": "monitor_memory",
}
# Of its plugin_config: a type, auto or disable; enable or disable; a number.
PLUGINS = """
bert_attention_plugin gpt_attention_plugin gemm_plugin gemm_swiglu_plugin fp8_rowwise_gemm_plugin lora_plugin
moe_plugin mamba_conv1d_plugin nccl_plugin low_latency_gemm_plugin low_latency_gemm_swiglu_plugin
gemm_allreduce_plugin context_fmha bert_context_fmha_fp32_acc remove_input_padding use_paged_context_fmha
use_fp8_context_fmha multiple_profiles paged_state streamingllm reduce_fusion user_buffer use_fused_mlp
pp_reduce_scatter dora_plugin fuse_fp4_quant norm_quant_fusion tokens_per_block
""".split()  # noqa: SIM905 - a table is read by the line

# flag -> (values that ask for nothing, why others are refused).
_OWN_CLASSES = (
    "models of your own are built in Python, with trtllm_ext.build(model, BuildConfig(...)); what trtllm-build itself "
    "takes of this package is in docs/trtllm_build.md"
)
_ADAPTERS = "this package has no LoRA adapters; merge them into the weights before the conversion"
_ONE_MACHINE = "how a model is split is said by its checkpoint's mapping"
OTHERS: dict[str, tuple[tuple[str, ...], str]] = {
    "logits_dtype": (("float32",), "no model of this package has logits"),
    "paged_kv_cache": (("disable",), "no model of this package generates text, so there is no KV cache"),
    "model_config": ((), "an engine is built from a checkpoint directory, which --checkpoint_dir names"),
    "model_cls_file": ((), _OWN_CLASSES),
    "model_cls_name": ((), _OWN_CLASSES),
    "lora_dir": ((), _ADAPTERS),
    "lora_ckpt_source": (("hf",), _ADAPTERS),
    "lora_target_modules": ((), _ADAPTERS),
    "max_lora_rank": (("64",), _ADAPTERS),
    "auto_parallel": (("1",), _ONE_MACHINE),
    "gpus_per_node": (("8",), _ONE_MACHINE),
    "cluster_key": ((), _ONE_MACHINE),
    "fast_build": ((), "engines always hold their weights"),
    "gather_all_token_logits": ((), "no model of this package has logits"),
}
_BARE = ("fast_build", "gather_all_token_logits")
_WORDS = {"enable": True, "disable": False}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add them all, left out of --help: there is nothing to gain by them."""
    for name in (*VALUES, *PLUGINS, *OTHERS, *SWITCHES):
        action = "store_true" if name in SWITCHES or name in _BARE else "store"
        parser.add_argument(f"--{name}", action=action, default=None, help=argparse.SUPPRESS)


def settings_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings of BuildConfig that the flags given amount to; `plugin_config` holds only what was given.

    Raises ConfigError for a value of OTHERS that asks for something.
    """
    given = {name: value for name, value in vars(arguments).items() if value is not None}
    for name, (neutral, reason) in OTHERS.items():
        if name in given and given[name] not in neutral:
            value = "" if given[name] is True else f" {given[name]}"
            raise ConfigError(f"--{name}{value} is refused: {reason}. Leave it out.")
    settings = {
        setting: _plain(given[name]) for name, setting in {**VALUES, **SWITCHES}.items() if name in given
    }
    plugins = {name: _plain(given[name]) for name in PLUGINS if name in given}
    # `enable` stays as it was typed: it is none of their choices, and is told of.
    plugins |= {name: given[name] != "disable" and given[name] for name in OWN_PLUGINS if name in given}
    return {**settings, "plugin_config": plugins} if plugins else settings


def _plain(value: Any) -> Any:
    """A flag's text as the JSON form of a build config has it."""
    if not isinstance(value, str):
        return value
    return int(value) if value.isdecimal() else _WORDS.get(value, value)
