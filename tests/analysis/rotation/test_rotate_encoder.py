"""Rotated encoders: a sentence's vector is the original's; post-norm ones are refused."""

from dataclasses import replace

import numpy as np
import pytest
from encoder_formulas import small_config
from stack_forms import LAYER, checkpoint, residual

from trtllm_ext.analysis.rotation import rotate_checkpoint, rotated_in_memory
from trtllm_ext.checkpoint import PoolingContract
from trtllm_ext.errors import ConfigError
from trtllm_ext.verify.formulas import evaluate, points_of

BUDGET_S = 1

EXACT = 1e-10


def error(got, expected):
    return np.abs(got - expected).max() / np.abs(expected).max()


def encoder(**pooling):
    """A pre-norm Encoder; `pooling`: what its vector is."""
    config = small_config()
    contract = config.contract
    attention = replace(contract.attention, residual=residual(), qkv_bias=False)
    return replace(
        config,
        contract=replace(
            contract,
            embedding=replace(contract.embedding, norm=None),
            attention=attention,
            feed_forward=replace(contract.feed_forward, residual=residual(), fc_bias=False),
            final_norm=LAYER,
            pooling=PoolingContract(
                **{"kind": "mean", "normalize": False, "max_seq_length": None, **pooling}
            ),
        ),
    )


@pytest.mark.parametrize("way", ["fold", "keep"])
@pytest.mark.parametrize("kind", ["mean", "cls", "pooler"])
def test_a_pre_norm_encoder(tmp_path, kind, way):
    config = encoder(kind=kind)
    weights = checkpoint(tmp_path / "c", config)
    rng = np.random.default_rng(4)
    ids = {
        "input_ids": rng.integers(0, config.vocab_size, (2, 5)),
        "attention_mask": np.array([[1] * 5, [1, 1, 1, 0, 0]]),
    }
    ids["token_type_ids"] = rng.integers(0, config.type_vocab_size, (2, 5))
    rotated, transform = rotated_in_memory(tmp_path / "c", layer_norm=way)
    expected = evaluate(points_of(config, weights), ids).values
    got = evaluate(points_of(rotated.config, rotated.weights), ids).values
    assert error(transform.back(got["last_hidden_state"]), expected["last_hidden_state"]) <= EXACT
    assert error(transform.pooled_back(got["sentence_embedding"]), expected["sentence_embedding"]) <= EXACT
    assert rotated.config.contract.attention.qkv_bias and rotated.config.contract.feed_forward.fc_bias


def test_an_encoder_whose_vector_is_scaled_behind_the_final_norm_is_refused(tmp_path):
    checkpoint(tmp_path / "c", encoder(normalize=True))
    with pytest.raises(ConfigError, match="scaled to length 1 behind the final norm"):
        rotate_checkpoint(tmp_path / "c", tmp_path / "out")
    checkpoint(tmp_path / "bert", small_config())
    with pytest.raises(
        ConfigError, match=r"the norm of the embedding.*the norm of attention.*the norm of mlp"
    ):
        rotate_checkpoint(tmp_path / "bert", tmp_path / "out")
