"""DistilBERT: BERT's layers under other names, without token types and pooler."""

from __future__ import annotations

from trtllm_ext.checkpoint.convert.encoders.spec import (
    EncoderArchitecture,
    EncoderForm,
    EncoderNames,
    check_form,
)
from trtllm_ext.checkpoint.convert.hf_config import HfConfig

_EPS = 1e-12  # not in its config: DistilBertModel has no other

NAMES = EncoderNames(
    embeddings={
        "embedding.vocab_embedding": "embeddings.word_embeddings",
        "embedding.position_embedding": "embeddings.position_embeddings",
        "embedding.embedding_ln": "embeddings.LayerNorm",
    },
    layers="transformer.layer",
    layer={
        "attention.dense": "attention.out_lin",
        "input_layernorm": "sa_layer_norm",
        "mlp.fc": "ffn.lin1",
        "mlp.proj": "ffn.lin2",
        "post_layernorm": "output_layer_norm",
    },
    query_key_value=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
)


def _read(config: HfConfig) -> EncoderForm:
    check_form(config, hidden_size="dim", num_heads="n_heads")
    return EncoderForm(
        vocab_size=config.size("vocab_size"),
        hidden_size=config.size("dim"),
        num_hidden_layers=config.size("n_layers"),
        num_attention_heads=config.size("n_heads"),
        ffn_hidden_size=config.size("hidden_dim"),
        max_position_embeddings=config.size("max_position_embeddings"),
        type_vocab_size=None,
        activation=config.activation("activation"),
        eps=_EPS,
    )


DISTILBERT = EncoderArchitecture(
    model_type="distilbert",
    model="DistilBertModel",
    base="distilbert.",
    heads={"DistilBertForMaskedLM": ("vocab_transform.", "vocab_layer_norm.", "vocab_projector.")},
    read=_read,
    names=NAMES,
    example={
        "vocab_size": 100,
        "dim": 64,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 160,
        "max_position_embeddings": 32,
        "activation": "gelu",
    },
    # sinusoidal_pos_embds says what the position table was filled with at first; it is stored in either case.
    other_fields=frozenset(
        [
            *("dropout", "attention_dropout", "qa_dropout", "seq_classif_dropout"),
            *("sinusoidal_pos_embds", "tie_weights_"),
        ]
    ),
)

ARCHITECTURES = (DISTILBERT,)
