"""Attention and feed-forward side by side, off one norm or one each: GPT-J, GPT-NeoX, Falcon, Phi, Cohere ...

Some of them have the usual order as well, by their config.
"""

from __future__ import annotations

from trtllm_ext.checkpoint.contract import ResidualContract
from trtllm_ext.checkpoint.convert.architectures.gpt2 import LAYERS as GPT2_LAYERS
from trtllm_ext.checkpoint.convert.architectures.gpt2 import SUMMARY
from trtllm_ext.checkpoint.convert.architectures.layer_norm_decoders import MEGATRON_WEIGHTS
from trtllm_ext.checkpoint.convert.architectures.llama import LAYERS as LLAMA_LAYERS
from trtllm_ext.checkpoint.convert.architectures.llama import WEIGHTS as LLAMA_WEIGHTS
from trtllm_ext.checkpoint.convert.architectures.spec import StackArchitecture, StackForm
from trtllm_ext.checkpoint.convert.hf_config import HfConfig
from trtllm_ext.checkpoint.form_parts import gated_form, layer_norm, plain_form, residual
from trtllm_ext.errors import CheckpointError

_SIZES = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2}


def _norm_field(config: HfConfig, name: str, **changes: object) -> ResidualContract:
    return residual(layer_norm(config.eps(name, 1e-5)), **changes)


def _read_gptj(config: HfConfig, layers: range) -> StackForm:
    hidden = config.size("n_embd")
    block = _norm_field(config, "layer_norm_epsilon", parallel="shared_norm")
    return StackForm(
        hidden_size=hidden,
        ffn_hidden_size=config.size("n_inner", 4 * hidden),
        feed_forward=plain_form(config.activation("activation_function", "gelu_new"), block),
        weights={"post_layernorm": "ln_1", "mlp.fc": "mlp.fc_in", "mlp.proj": "mlp.fc_out"},
    )


def _read_gpt_neox(config: HfConfig, layers: range) -> StackForm:
    parallel = "separate_norms" if config.flag("use_parallel_residual", True) else "none"
    block = _norm_field(config, "layer_norm_eps", parallel=parallel)
    return StackForm(
        hidden_size=config.size("hidden_size"),
        ffn_hidden_size=config.size("intermediate_size"),
        feed_forward=plain_form(config.activation("hidden_act", "gelu"), block),
        weights=MEGATRON_WEIGHTS,
    )


def _read_gpt_neox_japanese(config: HfConfig, layers: range) -> StackForm:
    hidden = config.size("hidden_size")
    block = _norm_field(config, "layer_norm_eps")
    return StackForm(
        hidden_size=hidden,
        ffn_hidden_size=hidden * config.size("intermediate_multiple_size", 4),
        feed_forward=plain_form(config.activation("hidden_act", "gelu"), block, bias=False),
        weights=MEGATRON_WEIGHTS,
    )


def _read_phi(config: HfConfig, layers: range) -> StackForm:
    block = _norm_field(config, "layer_norm_eps", parallel="shared_norm")
    return StackForm(
        hidden_size=config.size("hidden_size"),
        ffn_hidden_size=config.size("intermediate_size"),
        feed_forward=plain_form(config.activation("hidden_act", "gelu_new"), block),
        weights={"post_layernorm": "input_layernorm", "mlp.fc": "mlp.fc1", "mlp.proj": "mlp.fc2"},
    )


def _read_cohere(config: HfConfig, layers: range) -> StackForm:
    for name in ("use_gated_activation", "use_parallel_block"):
        config.fixed(name, True)
    norm = layer_norm(config.eps("layer_norm_eps", 1e-5), bias=False)
    return StackForm(
        hidden_size=config.size("hidden_size"),
        ffn_hidden_size=config.size("intermediate_size"),
        feed_forward=gated_form(
            config.activation("hidden_act", "silu"), residual(norm, parallel="shared_norm")
        ),
        weights={**LLAMA_WEIGHTS, "post_layernorm": "input_layernorm"},
    )


def _read_stablelm(config: HfConfig, layers: range) -> StackForm:
    parallel = config.flag("use_parallel_residual", False)
    block = _norm_field(config, "layer_norm_eps", parallel="shared_norm" if parallel else "none")
    norm = "input_layernorm" if parallel else "post_attention_layernorm"
    return StackForm(
        hidden_size=config.size("hidden_size"),
        ffn_hidden_size=config.size("intermediate_size"),
        feed_forward=gated_form(config.activation("hidden_act", "silu"), block),
        weights={**LLAMA_WEIGHTS, "post_layernorm": norm},
    )


def _read_falcon(config: HfConfig, layers: range) -> StackForm:
    new = config.flag("new_decoder_architecture", False)
    parallel = config.flag("parallel_attn", True)
    num_norms = config.get("num_ln_in_parallel_attn", 2 if new else 1)
    # Of the other combinations some do not run, and of some the weights have no use.
    if num_norms not in ((1, 2) if new else (1,)) or (new and not parallel):
        raise CheckpointError(
            f"{config.path}: new_decoder_architecture={new!r}, parallel_attn={parallel!r} and "
            f"num_ln_in_parallel_attn={num_norms!r} do not go together: with the new architecture parallel_attn has to "
            "be true and the norms 1 or 2, with the old one there is 1 norm."
        )
    if not parallel:
        return _falcon_form(config, "post_attention_layernorm", "none", config.flag("bias", False))
    if num_norms == 2:
        return _falcon_form(config, "ln_mlp", "separate_norms", config.flag("bias", False))
    return _falcon_form(config, "input_layernorm", "shared_norm", config.flag("bias", False))


def _falcon_form(config: HfConfig, norm: str, parallel: str, bias: bool) -> StackForm:
    config.fixed("apply_residual_connection_post_layernorm", False)
    hidden = config.size("hidden_size", config.get("n_embed", None))
    config.fixed("n_embed", hidden)
    block = _norm_field(config, "layer_norm_epsilon", parallel=parallel)
    return StackForm(
        hidden_size=hidden,
        ffn_hidden_size=config.size("ffn_hidden_size", 4 * hidden),
        feed_forward=plain_form(config.activation("activation", "gelu"), block, bias=bias),
        weights={**MEGATRON_WEIGHTS, "post_layernorm": norm},
    )


def _read_refined_web(config: HfConfig, layers: range) -> StackForm:
    """Falcon as first published, with code of its own: 'RefinedWeb' is the new architecture, with two norms."""
    config.fixed("model_type", "RefinedWebModel", "RefinedWeb")
    bias = config.flag("bias", False)
    if config.get("model_type") == "RefinedWeb":
        config.fixed("parallel_attn", True)
        return _falcon_form(config, "ln_mlp", "separate_norms", bias)
    if config.flag("parallel_attn"):
        return _falcon_form(config, "input_layernorm", "shared_norm", bias)
    return _falcon_form(config, "post_attention_layernorm", "none", bias)


GPTJ = StackArchitecture(
    model_type="gptj",
    prefix="GPTJ",
    read=_read_gptj,
    layers=GPT2_LAYERS,
    beside=("attn",),
    depth="n_layer",
    other_fields=SUMMARY | {"rotary"},
    example={
        "n_embd": 64,
        "n_layer": 2,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
    },
)
CODEGEN = StackArchitecture(
    model_type="codegen",
    prefix="CodeGen",
    read=_read_gptj,
    layers=GPT2_LAYERS,
    beside=("attn",),
    depth="n_layer",
    other_fields=GPTJ.other_fields,
    example=GPTJ.example,
)
GPT_NEOX = StackArchitecture(
    model_type="gpt_neox",
    prefix="GPTNeoX",
    read=_read_gpt_neox,
    layers=("gpt_neox.layers", "layers"),
    beside=("attention", "input_layernorm"),
    other_fields=frozenset({"custom_pipelines"}),
    example={**_SIZES, "hidden_act": "gelu", "layer_norm_eps": 1e-5, "use_parallel_residual": True},
    note="in sequence where use_parallel_residual is false",
)
GPT_NEOX_JAPANESE = StackArchitecture(
    model_type="gpt_neox_japanese",
    prefix="GPTNeoXJapanese",
    read=_read_gpt_neox_japanese,
    layers=("gpt_neox_japanese.layers", "layers"),
    beside=GPT_NEOX.beside,
    example={"hidden_size": 64, "num_hidden_layers": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-5},
)
_FALCON_FIELDS = frozenset({"multi_query", "num_kv_heads", "ff_factor"})
FALCON = StackArchitecture(
    model_type="falcon",
    prefix="Falcon",
    read=_read_falcon,
    layers=GPT2_LAYERS,
    beside=("self_attention", "input_layernorm", "ln_attn"),
    other_fields=_FALCON_FIELDS,
    example={
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "new_decoder_architecture": True,
        "activation": "gelu",
        "layer_norm_epsilon": 1e-5,
    },
    note="one norm, or in sequence, by num_ln_in_parallel_attn and parallel_attn",
)
REFINED_WEB = StackArchitecture(
    model_type="RefinedWeb",
    prefix="RW",
    read=_read_refined_web,
    layers=GPT2_LAYERS,
    beside=FALCON.beside,
    depth="n_layer",
    other_fields=_FALCON_FIELDS | {"n_head_kv"},
    code_prefixes=("Falcon",),
    example={"model_type": "RefinedWeb", "hidden_size": 64, "n_layer": 2, "layer_norm_epsilon": 1e-5},
    note="Falcon as first published; RefinedWebModel has one norm",
)
PHI = StackArchitecture(
    model_type="phi",
    prefix="Phi",
    read=_read_phi,
    layers=LLAMA_LAYERS,
    beside=("self_attn",),
    example={**_SIZES, "hidden_act": "gelu_new", "layer_norm_eps": 1e-5},
)
COHERE = StackArchitecture(
    model_type="cohere",
    prefix="Cohere",
    read=_read_cohere,
    layers=LLAMA_LAYERS,
    beside=("self_attn",),
    other_fields=frozenset({"model_max_length"}),
    example={**_SIZES, "hidden_act": "silu", "layer_norm_eps": 1e-5},
)
COHERE2 = StackArchitecture(
    model_type="cohere2",
    prefix="Cohere2",
    read=_read_cohere,
    layers=LLAMA_LAYERS,
    beside=("self_attn",),
    other_fields=frozenset(
        {
            *("cache_implementation", "order_of_interleaved_layers", "layer_switch", "use_embedding_sharing"),
            "use_parallel_embedding",
        }
    ),
    example=COHERE.example,
)
STABLELM = StackArchitecture(
    model_type="stablelm",
    prefix="StableLm",
    read=_read_stablelm,
    layers=LLAMA_LAYERS,
    beside=("self_attn", "input_layernorm"),
    other_fields=frozenset({"use_qkv_bias"}),
    example={**_SIZES, "hidden_act": "silu", "layer_norm_eps": 1e-5},
    note="parallel, off one norm, where use_parallel_residual is true",
)

ARCHITECTURES = (
    GPTJ,
    GPT_NEOX,
    GPT_NEOX_JAPANESE,
    FALCON,
    REFINED_WEB,
    PHI,
    COHERE,
    COHERE2,
    CODEGEN,
    STABLELM,
)
