"""Converter for the BERT family: Hugging Face's BertModel with absolute learned positions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trtllm_ext.checkpoint.config import ModelConfig
from trtllm_ext.checkpoint.contract import (
    CONTRACT_VERSION,
    AttentionContract,
    Contract,
    EmbeddingContract,
    FeedForwardContract,
    NormContract,
    PoolingContract,
    ResidualContract,
)
from trtllm_ext.checkpoint.convert.hf_fields import HF_FIELDS_WITHOUT_MATHS
from trtllm_ext.checkpoint.convert.pieces import Piece, Shape, Weight, rows
from trtllm_ext.checkpoint.convert.plan import Plan, plan_weights
from trtllm_ext.checkpoint.convert.sentence_transformers import MODULES_FILE, read_pooling
from trtllm_ext.checkpoint.convert.source import SourceWeights, check_source_fields
from trtllm_ext.checkpoint.convert.source_files import WeightFile
from trtllm_ext.errors import CheckpointError

# What Hugging Face's ACT2FN computes under each name (transformers, activations.py).
ACTIVATION_NAMES = {
    "gelu": "gelu_erf",
    "gelu_python": "gelu_erf",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "relu2": "squared_relu",
    "silu": "silu",
    "swish": "silu",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "linear": "identity",
}

_SIZES = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    *("max_position_embeddings", "type_vocab_size"),
)
# field -> the one value under which this converter's maths holds; absent means that value.
_FIXED: dict[str, tuple[Any, ...]] = {
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "is_encoder_decoder": (False,),
    "chunk_size_feed_forward": (0,),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
    "auto_map": (None, {}),
}
# Heads that these architectures put on BertModel; dropped only where modules.json says that the encoder is the model.
_HEADS = {"BertForMaskedLM": "cls.", "BertForPreTraining": "cls."}
ARCHITECTURES = ("BertModel", *_HEADS)

# Hugging Face name -> (our name, ...) inside one encoder layer.
_LAYER_NAMES = {
    "attention.output.dense": "attention.dense",
    "attention.output.LayerNorm": "input_layernorm",
    "intermediate.dense": "mlp.fc",
    "output.dense": "mlp.proj",
    "output.LayerNorm": "post_layernorm",
}
_GLOBAL_NAMES = {
    "embeddings.word_embeddings": "embedding.vocab_embedding",
    "embeddings.position_embeddings": "embedding.position_embedding",
    "embeddings.token_type_embeddings": "embedding.token_embedding",
    "embeddings.LayerNorm": "embedding.embedding_ln",
    "pooler.dense": "pooler.dense",
}


def plan_bert(model_dir: Path, source_config: Mapping[str, Any], weights: WeightFile, dtype: str) -> Plan:
    """Work out the conversion of a BERT folder without reading any weight's values but index tables.

    Raises CheckpointError for whatever in the folder is unknown, missing, misshapen or unused.
    """
    sizes = _read_config(model_dir / "config.json", source_config)
    source = SourceWeights(model_dir, weights, _canonical_names(weights))
    pooling = _pooling(model_dir, source_config, source, sizes)
    config = _model_config(source_config, sizes, pooling, dtype)
    parts = plan_weights(config, source, _compose)
    positions = np.arange(sizes["max_position_embeddings"])
    source.drop_index("embeddings.position_ids", positions, "0, 1, 2, ...")
    source.drop_index("embeddings.token_type_ids", np.zeros_like(positions), "all zeros")
    _drop_unused(source, pooling, source_config["architectures"][0])
    source.finish()
    return Plan(config, parts, source)


def _read_config(path: Path, data: Mapping[str, Any]) -> dict[str, int]:
    known = {*_SIZES, *_FIXED, "hidden_act", "layer_norm_eps", *HF_FIELDS_WITHOUT_MATHS}
    check_source_fields(
        data, known, path, advice="It may change the maths of the model, so it is not passed over."
    )
    for name, allowed in _FIXED.items():
        if name in data and data[name] not in allowed:
            raise CheckpointError(f"{path}: {name}={data[name]!r} is not supported; expected {allowed[0]!r}.")
    sizes = {}
    for name in _SIZES:
        value = data.get(name)
        if type(value) is not int or value < 1:
            raise CheckpointError(f"{path}: {name}={value!r} is not a positive integer.")
        sizes[name] = value
    eps = data.get("layer_norm_eps")
    if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 < eps < 1:
        raise CheckpointError(f"{path}: layer_norm_eps={eps!r} is not a number between 0 and 1.")
    activation = data.get("hidden_act")
    if not isinstance(activation, str) or activation not in ACTIVATION_NAMES:
        raise CheckpointError(
            f"{path}: hidden_act={activation!r} is not known. Known, with the function that each means: "
            + ", ".join(f"{name} ({meaning})" for name, meaning in ACTIVATION_NAMES.items())
            + "."
        )
    if sizes["hidden_size"] % sizes["num_attention_heads"]:
        raise CheckpointError(
            f"{path}: hidden_size={sizes['hidden_size']} does not split over num_attention_heads="
            f"{sizes['num_attention_heads']}."
        )
    return sizes


def _canonical_names(weights: WeightFile) -> dict[str, str]:
    """Names without the prefix that task models put before them, and LayerNorm's old names made new."""
    result = {}
    for source in weights:
        name = source.removeprefix("bert.")
        name = re.sub(r"\bLayerNorm\.gamma$", "LayerNorm.weight", name)
        result[source] = re.sub(r"\bLayerNorm\.beta$", "LayerNorm.bias", name)
    return result


def _pooling(
    model_dir: Path, data: Mapping[str, Any], source: SourceWeights, sizes: Mapping[str, int]
) -> PoolingContract:
    """What sentence-transformers lays down; else BertModel's own pooler where it has one; else none.

    A bare BertModel returns `pooler_output`, so with pooler weights that is its sentence vector. Without them
    it returns token vectors only, and choosing a pooling for the user would be a guess.
    """
    pooling = read_pooling(model_dir, sizes["hidden_size"], sizes["max_position_embeddings"])
    architecture = data["architectures"][0]
    if pooling is None and architecture in _HEADS:
        raise CheckpointError(
            f"{model_dir}: a {architecture} ends in a head that the encoder does not have. Only as a "
            f"sentence-transformers model (with {MODULES_FILE}), or saved as BertModel, can it be converted."
        )
    if pooling is not None:
        return pooling
    has_pooler = "pooler.dense.weight" in source or "pooler.dense.bias" in source
    return PoolingContract(kind="pooler" if has_pooler else "none", normalize=False, max_seq_length=None)


def _model_config(
    data: Mapping[str, Any], sizes: Mapping[str, int], pooling: PoolingContract, dtype: str
) -> ModelConfig:
    norm = NormContract(kind="layer_norm", eps=float(data["layer_norm_eps"]), bias=True)
    residual = ResidualContract(placement="post", norm=norm, post_norm=None, scale=1.0)
    contract = Contract(
        version=CONTRACT_VERSION,
        embedding=EmbeddingContract(position="learned_absolute", token_type=True, norm=norm),
        attention=AttentionContract(
            qkv_bias=True, dense_bias=True, scale="inverse_sqrt_head_size", mask="padding", residual=residual
        ),
        feed_forward=FeedForwardContract(
            gated=False,
            activation=ACTIVATION_NAMES[data["hidden_act"]],
            fc_bias=True,
            proj_bias=True,
            residual=residual,
        ),
        final_norm=None,
        pooling=pooling,
    )
    return ModelConfig(
        architecture="Encoder",
        dtype=dtype,
        contract=contract,
        hidden_size=sizes["hidden_size"],
        num_hidden_layers=sizes["num_hidden_layers"],
        num_attention_heads=sizes["num_attention_heads"],
        intermediate_size=sizes["intermediate_size"],
        vocab_size=sizes["vocab_size"],
        max_position_embeddings=sizes["max_position_embeddings"],
        type_vocab_size=sizes["type_vocab_size"],
    )


def _compose(name: str, shape: Shape) -> Weight:
    """The source weights, in BERT's names, that make up one weight of ours."""
    stem, _, leaf = name.removeprefix("transformer.").rpartition(".")
    layer = re.fullmatch(r"layers\.(\d+)\.(.+)", stem)
    if layer is None:
        (old,) = (old for old, new in _GLOBAL_NAMES.items() if new == stem)
        return Piece(f"{old}.{leaf}", shape)
    prefix = f"encoder.layer.{layer[1]}"
    if layer[2] == "attention.qkv":
        third = (shape[0] // 3, *shape[1:])
        parts = ("query", "key", "value")
        return rows(*(Piece(f"{prefix}.attention.self.{part}.{leaf}", third) for part in parts))
    (old,) = (old for old, new in _LAYER_NAMES.items() if new == layer[2])
    return Piece(f"{prefix}.{old}.{leaf}", shape)


def _drop_unused(source: SourceWeights, pooling: PoolingContract, architecture: str) -> None:
    head = _HEADS.get(architecture)
    for name in source.names():
        if name.startswith("pooler.dense.") and pooling.kind != "pooler":
            source.drop(
                name, f"the model pools by {pooling.kind!r} ({MODULES_FILE}), so the pooler is not applied"
            )
        elif head is not None and name.startswith(head):
            source.drop(name, f"a head for training; {MODULES_FILE} makes the encoder the whole model")
