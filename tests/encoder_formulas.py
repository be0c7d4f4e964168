"""A small Encoder, sentences for it, and what it computes in float64 numpy."""

import dataclasses

import numpy as np

from trtllm_ext.checkpoint import PoolingContract
from trtllm_ext.models import encoder_config
from trtllm_ext.verify.formulas import evaluate, points_of

VOCAB, HIDDEN, FFN, HEADS, LAYERS, POSITIONS = 60, 32, 72, 4, 2, 24


def sentences(batch=3, seq=11, vocab=VOCAB):
    rng = np.random.default_rng(7)
    mask = np.ones((batch, seq), np.int32)
    for row in range(1, batch):
        mask[row, seq - 3 * row :] = 0
    return {
        "input_ids": rng.integers(0, vocab, (batch, seq)).astype(np.int32),
        "attention_mask": mask,
        "token_type_ids": rng.integers(0, 2, (batch, seq)).astype(np.int32),
    }


def small_config(dtype="float32", kind="mean", normalize=True):
    config = encoder_config(
        hidden_size=HIDDEN,
        ffn_hidden_size=FFN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        vocab_size=VOCAB,
        max_position_embeddings=POSITIONS,
        dtype=dtype,
    )
    pooling = PoolingContract(kind=kind, normalize=normalize, max_seq_length=None)
    return dataclasses.replace(config, contract=dataclasses.replace(config.contract, pooling=pooling))


def formula(weights, inputs):
    """last_hidden_state in float64, from the papers' formulas."""
    return evaluate(points_of(small_config(), weights), inputs).values["last_hidden_state"]


def mean_pooled(hidden, mask, normalize=True):
    keep = (mask != 0)[..., None]
    mean = (hidden * keep).sum(1) / keep.sum(1)
    return mean / np.linalg.norm(mean, axis=-1, keepdims=True) if normalize else mean
