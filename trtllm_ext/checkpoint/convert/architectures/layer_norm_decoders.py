"""Decoders of two matrices off a LayerNorm, one sublayer after the other: OPT, BLOOM, MPT, StarCoder2, Nemotron ..."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from trtllm_ext.checkpoint.contract import NormContract
from trtllm_ext.checkpoint.convert.architectures.spec import Source, StackArchitecture, StackForm
from trtllm_ext.checkpoint.convert.hf_config import HfConfig
from trtllm_ext.checkpoint.form_parts import layer_norm, plain_form, residual

# What PyTorch's LayerNorm has where a model does not say otherwise.
TORCH_EPS = 1e-5
MEGATRON_WEIGHTS = {
    "post_layernorm": "post_attention_layernorm",
    "mlp.fc": "mlp.dense_h_to_4h",
    "mlp.proj": "mlp.dense_4h_to_h",
}
_FAIRSEQ_WEIGHTS = {"post_layernorm": "final_layer_norm", "mlp.fc": "fc1", "mlp.proj": "fc2"}
_FAIRSEQ_BESIDE = ("self_attn", "self_attn_layer_norm", "encoder_attn", "encoder_attn_layer_norm")


def _form(
    config: HfConfig,
    activation: str,
    norm: NormContract,
    weights: Mapping[str, str | Source],
    *,
    hidden: str = "hidden_size",
    ffn: str = "intermediate_size",
    bias: bool = True,
    placement: Literal["pre", "post"] = "pre",
) -> StackForm:
    return StackForm(
        hidden_size=config.size(hidden),
        ffn_hidden_size=config.size(ffn),
        feed_forward=plain_form(activation, residual(norm, placement=placement), bias=bias),
        weights=weights,
    )


def _read_opt(config: HfConfig, layers: range) -> StackForm:
    return _form(
        config,
        config.activation("activation_function", "relu"),
        layer_norm(TORCH_EPS, weight=config.flag("layer_norm_elementwise_affine", True)),
        _FAIRSEQ_WEIGHTS,
        ffn="ffn_dim",
        bias=config.flag("enable_bias", True),
        placement="pre" if config.flag("do_layer_norm_before", True) else "post",
    )


def _read_xglm(config: HfConfig, layers: range) -> StackForm:
    activation = config.activation("activation_function", "gelu")
    norm = layer_norm(TORCH_EPS)
    return _form(config, activation, norm, _FAIRSEQ_WEIGHTS, hidden="d_model", ffn="ffn_dim")


def _read_biogpt(config: HfConfig, layers: range) -> StackForm:
    # Its layer_norm_eps is in the config alone: the norms are made without it.
    return _form(config, config.activation("hidden_act", "gelu"), layer_norm(TORCH_EPS), _FAIRSEQ_WEIGHTS)


def _read_bloom(config: HfConfig, layers: range) -> StackForm:
    hidden = config.size("hidden_size", config.get("n_embed", None))
    config.fixed("n_embed", hidden)
    config.fixed("n_inner", 4 * hidden)
    # The skip would start behind the norm.
    config.fixed("apply_residual_connection_post_layernorm", False)
    # It leaves out the second bias where pretraining_tp is above 1.
    config.fixed("slow_but_exact", False)
    norm = layer_norm(config.eps("layer_norm_epsilon", 1e-5))
    return StackForm(
        hidden_size=hidden,
        ffn_hidden_size=4 * hidden,
        feed_forward=plain_form("gelu_tanh", residual(norm)),
        weights=MEGATRON_WEIGHTS,
    )


def _read_mpt(config: HfConfig, layers: range) -> StackForm:
    hidden = config.size("d_model")
    config.fixed("no_bias", True)
    config.fixed("expansion_ratio", 4)
    config.fixed("norm_type", "low_precision_layernorm", "layernorm")
    norm = layer_norm(config.eps("layer_norm_epsilon", 1e-5), bias=False)
    return StackForm(
        hidden_size=hidden,
        ffn_hidden_size=4 * hidden,
        feed_forward=plain_form("gelu_erf", residual(norm), bias=False),
        weights={"post_layernorm": "norm_2", "mlp.fc": "ffn.up_proj", "mlp.proj": "ffn.down_proj"},
    )


def _read_starcoder2(config: HfConfig, layers: range) -> StackForm:
    config.fixed("mlp_type", "default")
    config.fixed("norm_type", "layer_norm")
    return _form(
        config,
        config.activation("hidden_act", "gelu_pytorch_tanh"),
        layer_norm(config.eps("norm_epsilon", 1e-5)),
        {"post_layernorm": "post_attention_layernorm", "mlp.fc": "mlp.c_fc", "mlp.proj": "mlp.c_proj"},
        bias=config.flag("use_bias", True),
    )


def _read_nemotron(config: HfConfig, layers: range) -> StackForm:
    return _form(
        config,
        config.activation("hidden_act", "relu2"),
        layer_norm(config.eps("norm_eps", 1e-5), weight_offset=1.0),
        {"post_layernorm": "post_attention_layernorm", "mlp.fc": "mlp.up_proj", "mlp.proj": "mlp.down_proj"},
        bias=config.flag("mlp_bias", False),
    )


def _read_jais2(config: HfConfig, layers: range) -> StackForm:
    return _form(
        config,
        config.activation("hidden_act", "relu2"),
        layer_norm(config.eps("layer_norm_eps", 1e-5)),
        {"post_layernorm": "post_attention_layernorm", "mlp.fc": "mlp.up_proj", "mlp.proj": "mlp.down_proj"},
        bias=config.flag("mlp_bias", True),
    )


def _read_ctrl(config: HfConfig, layers: range) -> StackForm:
    # Its layer_norm_epsilon is that of the last norm alone.
    norm = layer_norm(1e-6)
    weights = {"post_layernorm": "layernorm2", "mlp.fc": "ffn.0", "mlp.proj": "ffn.2"}
    return _form(config, "relu", norm, weights, hidden="n_embd", ffn="dff")


def _read_persimmon(config: HfConfig, layers: range) -> StackForm:
    norm = layer_norm(config.eps("layer_norm_eps", 1e-5))
    return _form(config, config.activation("hidden_act", "relu2"), norm, MEGATRON_WEIGHTS)


OPT = StackArchitecture(
    model_type="opt",
    prefix="OPT",
    read=_read_opt,
    layers=("model.decoder.layers", "decoder.layers"),
    beside=_FAIRSEQ_BESIDE,
    other_fields=frozenset(
        {"activation_dropout", "word_embed_proj_dim", "learned_embeddings", "scale_embeddings"}
    ),
    example={
        "hidden_size": 64,
        "ffn_dim": 256,
        "num_hidden_layers": 2,
        "activation_function": "relu",
        "do_layer_norm_before": True,
    },
    note="post-norm where do_layer_norm_before is false (OPT-350m)",
)
XGLM = StackArchitecture(
    model_type="xglm",
    prefix="XGLM",
    read=_read_xglm,
    layers=("model.layers", "layers"),
    beside=_FAIRSEQ_BESIDE,
    depth="num_layers",
    other_fields=frozenset({"activation_dropout", "attention_heads", "scale_embedding"}),
    example={"d_model": 64, "ffn_dim": 256, "num_layers": 2, "activation_function": "gelu"},
)
BIOGPT = StackArchitecture(
    model_type="biogpt",
    prefix="BioGpt",
    read=_read_biogpt,
    layers=("biogpt.layers", "layers"),
    beside=_FAIRSEQ_BESIDE,
    other_fields=frozenset({"activation_dropout", "scale_embedding", "layer_norm_eps"}),
    example={"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "hidden_act": "gelu"},
    note="eps is 1e-5 whatever layer_norm_eps says",
)
BLOOM = StackArchitecture(
    model_type="bloom",
    prefix="Bloom",
    read=_read_bloom,
    layers=("transformer.h", "h"),
    beside=("self_attention", "input_layernorm"),
    depth="n_layer",
    other_fields=frozenset(
        {
            *("bias_dropout_fusion", "masked_softmax_fusion", "offset_alibi", "seq_length"),
            *("skip_bias_add", "skip_bias_add_qkv"),
        }
    ),
    example={"hidden_size": 64, "n_layer": 2, "layer_norm_epsilon": 1e-5},
)
_MPT_FIELDS = frozenset(
    {
        *(
            "n_heads",
            "max_seq_len",
            "emb_pdrop",
            "learned_pos_emb",
            "attn_config",
            "init_device",
            "init_config",
        ),
        *("embedding_fraction", "verbose", "tokenizer_name"),
    }
)
MPT = StackArchitecture(
    model_type="mpt",
    prefix="Mpt",
    read=_read_mpt,
    layers=("transformer.blocks", "blocks"),
    beside=("attn", "norm_1"),
    depth="n_layers",
    other_fields=_MPT_FIELDS,
    example={"d_model": 64, "n_layers": 2, "layer_norm_epsilon": 1e-5},
    other_classes=("MPTForCausalLM",),
)
STARCODER2 = StackArchitecture(
    model_type="starcoder2",
    prefix="Starcoder2",
    read=_read_starcoder2,
    layers=("model.layers", "layers"),
    beside=("self_attn", "input_layernorm"),
    # Left in from its predecessor's config: what is read has other names.
    other_fields=frozenset(
        {"activation_function", "layer_norm_epsilon", "scale_attention_softmax_in_fp32", "multi_query"}
    ),
    example={
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "hidden_act": "gelu_pytorch_tanh",
        "norm_epsilon": 1e-5,
    },
)
NEMOTRON = StackArchitecture(
    model_type="nemotron",
    prefix="Nemotron",
    read=_read_nemotron,
    layers=("model.layers", "layers"),
    beside=("self_attn", "input_layernorm"),
    other_fields=frozenset({"kv_channels"}),
    example={
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "hidden_act": "relu2",
        "norm_eps": 1e-5,
    },
)
PERSIMMON = StackArchitecture(
    model_type="persimmon",
    prefix="Persimmon",
    read=_read_persimmon,
    layers=("model.layers", "layers"),
    beside=("self_attn", "input_layernorm"),
    example={
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "hidden_act": "relu2",
        "layer_norm_eps": 1e-5,
    },
)
JAIS2 = replace(
    PERSIMMON,
    model_type="jais2",
    prefix="Jais2",
    read=_read_jais2,
    example={**PERSIMMON.example, "mlp_bias": True},
)
CTRL = StackArchitecture(
    model_type="ctrl",
    prefix="CTRL",
    read=_read_ctrl,
    layers=("transformer.h", "h"),
    beside=("multi_head_attention", "layernorm1"),
    depth="n_layer",
    other_fields=frozenset({"layer_norm_epsilon", "from_tf", "pruned_heads"}),
    example={"n_embd": 64, "dff": 256, "n_layer": 2},
    note="eps is 1e-6 whatever layer_norm_epsilon says",
)

ARCHITECTURES = (OPT, BLOOM, STARCODER2, NEMOTRON, MPT, PERSIMMON, XGLM, BIOGPT, JAIS2, CTRL)
