"""BERT: token types, positions counted from the table's first row, a pooler of its own."""

from __future__ import annotations

from dataclasses import replace

from trtllm_ext.checkpoint.convert.encoders.spec import (
    EncoderArchitecture,
    EncoderForm,
    EncoderNames,
    check_form,
)
from trtllm_ext.checkpoint.convert.hf_config import HfConfig
from trtllm_ext.errors import CheckpointError

NAMES = EncoderNames(
    embeddings={
        "embedding.vocab_embedding": "embeddings.word_embeddings",
        "embedding.position_embedding": "embeddings.position_embeddings",
        "embedding.token_embedding": "embeddings.token_type_embeddings",
        "embedding.embedding_ln": "embeddings.LayerNorm",
        "pooler.dense": "pooler.dense",
    },
    layers="encoder.layer",
    layer={
        "attention.dense": "attention.output.dense",
        "input_layernorm": "attention.output.LayerNorm",
        "mlp.fc": "intermediate.dense",
        "mlp.proj": "output.dense",
        "post_layernorm": "output.LayerNorm",
    },
    query_key_value=("attention.self.query", "attention.self.key", "attention.self.value"),
)

_EXAMPLE = {
    "vocab_size": 100,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 160,
    "max_position_embeddings": 32,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
}


def _read(config: HfConfig) -> EncoderForm:
    check_form(config, hidden_size="hidden_size", num_heads="num_attention_heads")
    return EncoderForm(
        vocab_size=config.size("vocab_size"),
        hidden_size=config.size("hidden_size"),
        num_hidden_layers=config.size("num_hidden_layers"),
        num_attention_heads=config.size("num_attention_heads"),
        ffn_hidden_size=config.size("intermediate_size"),
        max_position_embeddings=config.size("max_position_embeddings"),
        type_vocab_size=config.size("type_vocab_size"),
        activation=config.activation("hidden_act"),
        eps=config.eps("layer_norm_eps", 1e-12),
    )


def _read_roberta(config: HfConfig) -> EncoderForm:
    # Its positions count the tokens that are not padding, from the row after padding's own. That is the place in the
    # sentence as long as padding stands behind it and the padding token nowhere inside.
    padding = config.get("pad_token_id", 1)
    if type(padding) is not int or padding < 0:
        raise CheckpointError(f"{config.path}: pad_token_id={padding!r} is not a token's number.")
    return replace(_read(config), position_offset=padding + 1)


def _roberta(model_type: str, prefix: str) -> EncoderArchitecture:
    return EncoderArchitecture(
        model_type=model_type,
        model=f"{prefix}Model",
        base="roberta.",
        heads={f"{prefix}ForMaskedLM": ("lm_head.",)},
        read=_read_roberta,
        names=NAMES,
        example={**_EXAMPLE, "type_vocab_size": 1},
    )


BERT = EncoderArchitecture(
    model_type="bert",
    model="BertModel",
    base="bert.",
    heads={"BertForMaskedLM": ("cls.",), "BertForPreTraining": ("cls.",)},
    read=_read,
    names=NAMES,
    example=_EXAMPLE,
)
ROBERTA = _roberta("roberta", "Roberta")
XLM_ROBERTA = _roberta("xlm-roberta", "XLMRoberta")
CAMEMBERT = _roberta("camembert", "Camembert")

ARCHITECTURES = (BERT, ROBERTA, XLM_ROBERTA, CAMEMBERT)
