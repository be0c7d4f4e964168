"""An Encoder whose residual stream is float32 beside narrower sublayers, against the float32 Encoder of its weights."""

from dataclasses import replace

import numpy as np
import pytest
from sampling import thinned
from sublayer_formulas import DTYPES, TOLERANCE

import trtllm_ext as tx
from trtllm_ext.checkpoint import load_checkpoint, write_checkpoint
from trtllm_ext.models import encoder_config, model_from_checkpoint, write_random_checkpoint

BUDGET_S = 8

LAYERS = 4


def changed(config, **fields):
    """The config with these fields in the residual of both sublayers."""
    parts = {
        name: replace(part, residual=replace(part.residual, **fields))
        for name, part in (
            ("attention", config.contract.attention),
            ("feed_forward", config.contract.feed_forward),
        )
    }
    return replace(config, contract=replace(config.contract, **parts))


def small_config(dtype, placement, pooling):
    sizes = {"hidden_size": 16, "ffn_hidden_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 2}
    config = encoder_config(**sizes, vocab_size=50, max_position_embeddings=16, dtype=dtype)
    config = changed(config, placement=placement)
    kind = replace(config.contract.pooling, kind=pooling)
    return replace(config, contract=replace(config.contract, pooling=kind))


def run(path):
    ids = np.random.default_rng(0).integers(0, 50, (3, 12)).astype(np.int32)
    engine = tx.build(model_from_checkpoint(path), tx.BuildConfig(max_batch_size=4, max_input_len=16)).engine
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    with tx.Session.from_serialized_engine(engine) as session:
        return session.run(inputs)["last_hidden_state"]


# By default each placement, and each type, once.
@pytest.mark.parametrize(
    ("dtype", "placement", "pooling"),
    [
        ("float16", "pre", "pooler"),
        ("bfloat16", "post", "mean"),
        *thinned([("float16", "post", "mean"), ("bfloat16", "pre", "pooler")], every=3, first=2),
    ],
)
def test_a_float32_stream(tmp_path, dtype, placement, pooling):
    config = small_config(dtype, placement, pooling)
    write_random_checkpoint(tmp_path / "narrow", config)
    values = load_checkpoint(tmp_path / "narrow").weights
    write_checkpoint(
        tmp_path / "wide", changed(config, stream_dtype="float32"), lambda name, shape: iter([values[name]])
    )
    exact = replace(config, dtype="float32")
    write_checkpoint(tmp_path / "exact", exact, lambda name, shape: iter([values[name].astype(np.float32)]))
    narrow, wide, reference = (run(tmp_path / name) for name in ("narrow", "wide", "exact"))
    assert narrow.dtype == wide.dtype == DTYPES[dtype]
    errors = {name: got.astype(np.float64) - reference for name, got in (("narrow", narrow), ("wide", wide))}
    assert np.abs(errors["wide"]).max() < TOLERANCE[dtype] * np.abs(reference).max()
    # What each sum of a narrow stream rounds away is missing here.
    assert np.square(errors["wide"]).mean() < 0.9 * np.square(errors["narrow"]).mean()
