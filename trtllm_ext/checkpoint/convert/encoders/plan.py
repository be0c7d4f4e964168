"""From a Hugging Face encoder to an Encoder, by its architecture's description."""

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
    PoolingContract,
)
from trtllm_ext.checkpoint.convert.encoders.spec import EncoderArchitecture, EncoderForm, EncoderNames
from trtllm_ext.checkpoint.convert.hf_config import HfConfig
from trtllm_ext.checkpoint.convert.pieces import Piece, Shape, Weight, rows
from trtllm_ext.checkpoint.convert.plan import Plan, plan_weights
from trtllm_ext.checkpoint.convert.sentence_transformers import MODULES_FILE, read_pooling
from trtllm_ext.checkpoint.convert.source import SourceWeights
from trtllm_ext.checkpoint.convert.source_files import WeightFile
from trtllm_ext.checkpoint.form_parts import layer_norm, plain_form, residual
from trtllm_ext.errors import CheckpointError


def plan_encoder(
    architecture: EncoderArchitecture,
    model_dir: Path,
    data: Mapping[str, Any],
    weights: WeightFile,
    dtype: str,
) -> Plan:
    """Work out the conversion of an encoder's folder without reading any weight's values but index tables.

    Raises CheckpointError for whatever in the folder is unknown, missing, misshapen or unused.
    """
    form = _read(architecture, model_dir / "config.json", data)
    source = SourceWeights(model_dir, weights, _canonical_names(weights, architecture.base))
    class_name = data["architectures"][0]
    pooling = _pooling(architecture, class_name, model_dir, source, form)
    config = _model_config(form, pooling, dtype)
    names = architecture.names
    parts = plan_weights(config, source, lambda name, shape: _source_weight(name, shape, names))
    positions = np.arange(form.max_position_embeddings)
    source.drop_index("embeddings.position_ids", positions, "0, 1, 2, ...")
    source.drop_index("embeddings.token_type_ids", np.zeros_like(positions), "all zeros")
    _drop_unused(source, pooling, architecture, class_name)
    source.finish()
    return Plan(config, parts, source)


def _read(architecture: EncoderArchitecture, path: Path, data: Mapping[str, Any]) -> EncoderForm:
    config = HfConfig(path, data)
    form = architecture.read(config)
    config.finish(architecture.other_fields)
    return form


def _canonical_names(weights: WeightFile, base: str) -> dict[str, str]:
    """Names without the prefix that task models put before them, and LayerNorm's old names made new."""
    result = {}
    for source in weights:
        name = re.sub(r"\bLayerNorm\.gamma$", "LayerNorm.weight", source.removeprefix(base))
        result[source] = re.sub(r"\bLayerNorm\.beta$", "LayerNorm.bias", name)
    return result


def _pooling(
    architecture: EncoderArchitecture,
    class_name: str,
    model_dir: Path,
    source: SourceWeights,
    form: EncoderForm,
) -> PoolingContract:
    """What sentence-transformers lays down; else the model's own pooler where it has one; else none.

    A bare BertModel returns `pooler_output`, so with pooler weights that is its sentence vector. Without them
    it returns token vectors only, and choosing a pooling for the user would be a guess.
    """
    positions = form.max_position_embeddings - form.position_offset
    pooling = read_pooling(model_dir, form.hidden_size, positions)
    if pooling is not None:
        return pooling
    if class_name in architecture.heads:
        raise CheckpointError(
            f"{model_dir}: a {class_name} ends in a head that the encoder does not have. Only as a "
            f"sentence-transformers model (with {MODULES_FILE}), or saved as {architecture.model}, can it be converted."
        )
    stored = any(f"pooler.dense.{leaf}" in source for leaf in ("weight", "bias"))
    has_pooler = stored and architecture.names.has_pooler
    return PoolingContract(kind="pooler" if has_pooler else "none", normalize=False, max_seq_length=None)


def _model_config(form: EncoderForm, pooling: PoolingContract, dtype: str) -> ModelConfig:
    norm = layer_norm(form.eps)
    after = residual(norm, placement="post")
    contract = Contract(
        version=CONTRACT_VERSION,
        embedding=EmbeddingContract(
            position="learned_absolute",
            token_type=form.type_vocab_size is not None,
            norm=norm,
            position_offset=form.position_offset,
        ),
        attention=AttentionContract(
            qkv_bias=True, dense_bias=True, scale="inverse_sqrt_head_size", mask="padding", residual=after
        ),
        feed_forward=plain_form(form.activation, after),
        final_norm=None,
        pooling=pooling,
    )
    return ModelConfig(
        architecture="Encoder",
        dtype=dtype,
        contract=contract,
        hidden_size=form.hidden_size,
        num_hidden_layers=form.num_hidden_layers,
        num_attention_heads=form.num_attention_heads,
        intermediate_size=form.ffn_hidden_size,
        vocab_size=form.vocab_size,
        max_position_embeddings=form.max_position_embeddings,
        type_vocab_size=form.type_vocab_size,
    )


def _source_weight(name: str, shape: Shape, names: EncoderNames) -> Weight:
    """The source weights, by their names without the prefix, that make up one weight of ours."""
    stem, _, leaf = name.removeprefix("transformer.").rpartition(".")
    layer = re.fullmatch(r"layers\.(\d+)\.(.+)", stem)
    if layer is None:
        return Piece(f"{names.embeddings[stem]}.{leaf}", shape)
    prefix = f"{names.layers}.{layer[1]}"
    if layer[2] == "attention.qkv":
        third = (shape[0] // 3, *shape[1:])
        return rows(*(Piece(f"{prefix}.{part}.{leaf}", third) for part in names.query_key_value))
    return Piece(f"{prefix}.{names.layer[layer[2]]}.{leaf}", shape)


def _drop_unused(
    source: SourceWeights, pooling: PoolingContract, architecture: EncoderArchitecture, class_name: str
) -> None:
    pooler = ("pooler.dense.",) if architecture.names.has_pooler and pooling.kind != "pooler" else ()
    for name in source.names():
        if name.startswith(pooler):
            source.drop(
                name, f"the model pools by {pooling.kind!r} ({MODULES_FILE}), so the pooler is not applied"
            )
        elif name.startswith(architecture.heads.get(class_name, ())):
            source.drop(name, f"a head for training; {MODULES_FILE} makes the encoder the whole model")
