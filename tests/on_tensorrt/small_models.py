"""Small models for runs on TensorRT, by name: every form of a SublayerStack, encoders; and inputs for them."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from sublayer_formulas import DTYPES

from trtllm_ext.checkpoint import ModelConfig, stack_config
from trtllm_ext.models import encoder_config

# Only `stack_forms` knows the forms that no well-known model has.
from stack_forms import TABLE as FORMS  # isort: skip

HIDDEN, FFN, LAYERS, VOCAB = 64, 256, 2, 100
MAX_TOKENS, MAX_BATCH, MAX_LENGTH = 32, 4, 16
Arrays = dict[str, np.ndarray[Any, Any]]


def stack(form: str, dtype: str, layers: int = LAYERS) -> ModelConfig:
    """A SublayerStack; a form beside its attention is given the attention's output."""
    contract = FORMS[form]
    return stack_config(
        contract,
        hidden_size=HIDDEN,
        ffn_hidden_size=FFN,
        num_hidden_layers=layers,
        dtype=dtype,
        attention_input=contract.residual.parallel != "none",
    )


def encoder(
    dtype: str, pooling: str = "mean", offset: int = 0, token_type: bool = True, **residual: Any
) -> ModelConfig:
    """An Encoder; residual: what is otherwise in both sublayers than BERT has it."""
    config = encoder_config(
        hidden_size=HIDDEN,
        ffn_hidden_size=FFN,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        vocab_size=VOCAB,
        max_position_embeddings=MAX_LENGTH + offset,
        dtype=dtype,
    )
    whole = config.contract
    assert whole.pooling and whole.embedding and whole.attention
    contract = replace(
        whole,
        pooling=replace(whole.pooling, kind=pooling, normalize=pooling == "mean"),
        embedding=replace(whole.embedding, position_offset=offset, token_type=token_type),
        attention=replace(whole.attention, residual=replace(whole.attention.residual, **residual)),
        feed_forward=replace(whole.feed_forward, residual=replace(whole.feed_forward.residual, **residual)),
    )
    return replace(config, contract=contract, type_vocab_size=2 if token_type else None)


ENCODERS = {
    "encoder, mean of tokens": encoder,
    "encoder, BERT with its pooler": partial(encoder, pooling="pooler"),
    "encoder, RoBERTa": partial(encoder, pooling="cls", offset=2),
    "encoder, DistilBERT": partial(encoder, pooling="none", token_type=False),
    "encoder, norm first": partial(encoder, placement="pre"),
    "encoder, float32 stream": partial(encoder, stream_dtype="float32"),
}
NAMES = [*FORMS, *ENCODERS]


def config_of(name: str, dtype: str) -> ModelConfig:
    """A model of `NAMES`."""
    return ENCODERS[name](dtype) if name in ENCODERS else stack(name, dtype)


def limits_of(config: ModelConfig) -> dict[str, Any]:
    """The sizes to build it for, as a BuildConfig has them."""
    if config.architecture == "Encoder":
        return {"max_batch_size": MAX_BATCH, "opt_batch_size": 2, "max_input_len": MAX_LENGTH}
    return {"max_num_tokens": MAX_TOKENS, "opt_num_tokens": 8}


def inputs_of(config: ModelConfig) -> Iterator[Arrays]:
    """Inputs of the least size, of one between, and of the largest."""
    if config.architecture == "Encoder":
        for batch, length in ((1, 1), (3, 9), (MAX_BATCH, MAX_LENGTH)):
            yield sentences(config, batch, length)
        return
    for count in (1, 7, MAX_TOKENS):
        yield tokens(config, count)


def tokens(config: ModelConfig, count: int) -> Arrays:
    """`count` packed tokens of a SublayerStack, and what attention adds where the model takes it."""
    rng = np.random.default_rng(count)
    shapes: dict[str, tuple[int, ...]] = {"hidden_states": (count, config.hidden_size)}
    if config.contract.attention_input:
        shapes["attention_output"] = (config.num_hidden_layers, count, config.hidden_size)
    return {
        name: rng.normal(size=shape).astype(DTYPES[config.stream_dtype]) for name, shape in shapes.items()
    }


def sentences(config: ModelConfig, batch: int, length: int) -> Arrays:
    """Token ids with padding behind every sentence but the first."""
    rng = np.random.default_rng(batch)
    mask = np.ones((batch, length), np.int32)
    for row in range(1, batch):
        mask[row, max(1, length - 3 * row) :] = 0
    values = {
        "input_ids": rng.integers(0, VOCAB, mask.shape).astype(np.int32),
        "attention_mask": mask,
        "token_type_ids": rng.integers(0, 2, mask.shape).astype(np.int32),
    }
    embedding = config.contract.embedding
    if embedding is None or not embedding.token_type:
        del values["token_type_ids"]
    return values
