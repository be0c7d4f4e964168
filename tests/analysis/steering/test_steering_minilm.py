"""Mean ablation of a trained encoder: each sublayer of layer 0, against float64, and what it does to sentences."""

import numpy as np
import pytest
from operated import reference

import trtllm_ext as tx
from trtllm_ext.analysis.running.packing import batches_of_sentences
from trtllm_ext.analysis.steering.steered import Change, steer
from trtllm_ext.checkpoint import load_checkpoint
from trtllm_ext.checkpoint.convert import convert

BUDGET_S = 60

pytestmark = pytest.mark.long

SENTENCES = [
    "A man is playing the guitar on a small stage.",
    "Someone performs music with a string instrument.",
    "It will rain in the mountains tomorrow.",
]


@pytest.fixture(scope="module")
def folder(minilm_dir, tmp_path_factory):
    path = tmp_path_factory.mktemp("minilm")
    convert(minilm_dir, path / "checkpoint")
    settings = tx.BuildConfig(
        max_batch_size=4, max_input_len=32, surgery=["*.0.*.contribution"], taps=["*.0.*"]
    )
    tx.build_engine_dir(path / "checkpoint", path / "engine", settings)
    return path


@pytest.mark.parametrize(("sublayer", "is_lost"), [("attention", False), ("mlp", True)])
def test_a_mean_in_the_place_of_a_contribution(folder, sublayer, is_lost):
    """The feed-forward's mean is mostly one channel of [CLS]; given to every token it makes one vector of all."""
    name = f"transformer.layers.0.{sublayer}.contribution"
    with tx.Session.from_engine_dir(folder / "engine") as session:
        batches = batches_of_sentences(session, SENTENCES, None)
        found = steer(session, batches, [Change("replace", name)])
    checkpoint = load_checkpoint(folder / "checkpoint")
    (batch,) = batches
    before = reference(checkpoint.config, checkpoint.weights, batch.arrays, {})
    mean = before[name][: len(SENTENCES)][batch.mask].mean(0)
    changes = {f"{name}.scale": np.zeros(1), f"{name}.add": np.broadcast_to(mean, before[name].shape)}
    after = reference(checkpoint.config, checkpoint.weights, batch.arrays, changes)
    for got, expected in ((found.unchanged, before), (found.changed, after)):
        vectors, _ = batch.rows_of(expected["sentence_embedding"], "sentence_embedding")
        order = np.argsort(batch.sentences)
        np.testing.assert_allclose(got["sentence_embedding"], vectors[order], atol=1e-5)
    similar = found.changed["sentence_embedding"] @ found.changed["sentence_embedding"].T
    assert (similar.min() > 0.99) == is_lost
    assert (found.shares("transformer.layers.0.mlp.after") > 0).all()
