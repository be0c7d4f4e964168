"""Norms of products of a reader and an earlier writer, against the products themselves in float64."""

from dataclasses import replace

import numpy as np
import pytest
from encoder_formulas import small_config
from stack_forms import HIDDEN, LAYER, RMS, SHARED, plain, residual, streams

from trtllm_ext.analysis.stream_map import read_stream_map
from trtllm_ext.analysis.virtual_weights.composition import expected, inner, sampled_scores
from trtllm_ext.analysis.virtual_weights.gram import gram, readers_of, writers_of
from trtllm_ext.analysis.virtual_weights.lanczos import largest
from trtllm_ext.analysis.virtual_weights.virtual_weights import virtual_weights
from trtllm_ext.checkpoint import load_whole, stack_config
from trtllm_ext.errors import CheckpointError, ConfigError
from trtllm_ext.models import write_random_checkpoint

BUDGET_S = 2

LAYERS = 3
CENTER = np.eye(HIDDEN) - 1 / HIDDEN


def written(folder, form, **more):
    config = stack_config(
        form, hidden_size=HIDDEN, ffn_hidden_size=40, num_hidden_layers=LAYERS, dtype="float32", **more
    )
    write_random_checkpoint(folder / "checkpoint", config, seed=5)
    return folder / "checkpoint"


def stored(path):
    return {name: values.astype(np.float64) for name, values in load_whole(path).weights.items()}


def assert_product(result, writer, reader, read, write):
    """The pair's numbers against the product itself."""
    place = result.writers.index(writer), result.readers.index(reader)
    product = read @ write
    size = np.linalg.norm(read) * np.linalg.norm(write)
    np.testing.assert_allclose(result.frobenius[place], np.linalg.norm(product), rtol=1e-10)
    np.testing.assert_allclose(result.spectral[place], np.linalg.norm(product, 2), rtol=1e-8)
    np.testing.assert_allclose(result.score[place], np.linalg.norm(product) / size, rtol=1e-10)


def test_a_sandwich_with_a_gate_and_a_scale(tmp_path):
    form = plain(gated=True, residual=residual("sandwich", LAYER, RMS, gate="channel", scale=0.5))
    path = written(tmp_path, form)
    w = stored(path)
    result = virtual_weights(read_stream_map(path))
    assert result.writers == tuple(f"transformer.layers.{i}.mlp.proj" for i in range(2))
    for i in range(LAYERS):
        for j in range(i + 1, LAYERS):
            first, second = f"transformer.layers.{i}", f"transformer.layers.{j}"
            behind = w[f"{first}.mlp_scale.weight"] * 0.5 * w[f"{first}.post_feedforward_layernorm.weight"]
            write = behind[:, None] * w[f"{first}.mlp.proj.weight"]
            gain = w[f"{second}.pre_feedforward_layernorm.weight"] + 1
            for name in ("fc", "gate"):
                read = w[f"{second}.mlp.{name}.weight"] * gain @ CENTER
                assert_product(result, f"{first}.mlp.proj", f"{second}.mlp.{name}", read, write)
    assert np.isnan(result.score[1, result.readers.index("transformer.layers.1.mlp.fc")])


def test_norms_of_the_sum_stand_between(tmp_path):
    """BERT's: what attention writes passes the layer's own norm, and what the embedding writes passes two."""
    config = replace(small_config(), dtype="float32")
    write_random_checkpoint(tmp_path / "checkpoint", config, seed=2)
    w = stored(tmp_path / "checkpoint")
    hidden = config.hidden_size
    center = np.eye(hidden) - 1 / hidden
    result = virtual_weights(read_stream_map(tmp_path / "checkpoint"))
    layer = "transformer.layers.0"
    norms = [
        w[f"{name}.weight"][:, None] * center
        for name in ("transformer.embedding.embedding_ln", f"{layer}.input_layernorm")
    ]
    fc, dense = w[f"{layer}.mlp.fc.weight"], w[f"{layer}.attention.dense.weight"]
    assert_product(result, f"{layer}.attention.dense", f"{layer}.mlp.fc", fc @ norms[1], dense)
    words = w["transformer.embedding.vocab_embedding.weight"].T
    assert_product(result, "transformer.embedding.vocab", f"{layer}.mlp.fc", fc @ norms[1] @ norms[0], words)
    q = w[f"{layer}.attention.qkv.weight"][:hidden]
    assert_product(result, "transformer.embedding.vocab", f"{layer}.attention.q", q @ norms[0], words)


def test_experts_count_as_one_matrix(tmp_path):
    path = written(tmp_path, SHARED)
    w = stored(path)
    found = read_stream_map(path)
    result = virtual_weights(found)
    gain = w["transformer.layers.2.post_layernorm.weight"] + SHARED.residual.norm.weight_offset
    center = CENTER if SHARED.residual.norm.kind == "layer_norm" else np.eye(HIDDEN)
    read = w["transformer.layers.2.mlp.fc.weight"].reshape(-1, HIDDEN) * gain @ center
    write = np.concatenate(list(w["transformer.layers.0.mlp.proj.weight"]), axis=1) * SHARED.residual.scale
    assert_product(result, "transformer.layers.0.mlp.proj", "transformer.layers.2.mlp.fc", read, write)
    router = w["transformer.layers.1.mlp.router.weight"] * (
        w["transformer.layers.1.post_layernorm.weight"] + SHARED.residual.norm.weight_offset
    )
    assert_product(
        result, "transformer.layers.0.mlp.proj", "transformer.layers.1.mlp.router", router @ center, write
    )


def test_factors_of_the_stream_stand_between(tmp_path):
    path = written(tmp_path, plain(residual=residual("none", None, skip_scale=0.5)))
    w = stored(path)
    result = virtual_weights(read_stream_map(path))
    read, write = w["transformer.layers.2.mlp.fc.weight"], w["transformer.layers.0.mlp.proj.weight"]
    place = (0, result.readers.index("transformer.layers.2.mlp.fc"))
    np.testing.assert_allclose(result.frobenius[place], np.linalg.norm(read @ write) / 2, rtol=1e-10)


def test_sublayers_side_by_side_do_not_read_each_other(tmp_path):
    config = replace(small_config(), dtype="float32")
    write_random_checkpoint(tmp_path / "checkpoint", config, seed=2)
    found = read_stream_map(tmp_path / "checkpoint")
    parts = [
        part if part.residual is None else replace(part, norm=None, residual=residual(parallel="shared_norm"))
        for part in found.parts
    ]
    result = virtual_weights(replace(found, parts=tuple(parts)))
    row = result.writers.index("transformer.layers.0.attention.dense")
    assert np.isnan(result.score[row, result.readers.index("transformer.layers.0.mlp.fc")])
    assert result.score[row, result.readers.index("transformer.layers.1.mlp.fc")] > 0


def test_directions_are_those_of_the_product(tmp_path):
    path = written(tmp_path, plain(residual=residual("pre", RMS)))
    w = stored(path)
    pattern = "transformer.layers.0.mlp.proj:*.2.mlp.fc"
    result = virtual_weights(read_stream_map(path), pairs=[pattern], directions=3)
    assert result.score.shape == (1, 1)
    ((_, found),) = result.directions.items()
    read = w["transformer.layers.2.mlp.fc.weight"] * w["transformer.layers.2.post_layernorm.weight"]
    write = w["transformer.layers.0.mlp.proj.weight"]
    left, values, right = np.linalg.svd(read @ write)
    np.testing.assert_allclose(found.values, values[:3], rtol=1e-6)
    for k in range(3):
        for got, made in ((found.written[k], write @ right[k]), (found.read[k], read.T @ left[:, k])):
            assert abs(got @ made) / np.linalg.norm(made) > 1 - 1e-6


@pytest.fixture(scope="module")
def grams():
    rng = np.random.default_rng(1)
    read, write = rng.normal(size=(5, HIDDEN)) * np.arange(1, HIDDEN + 1), rng.normal(size=(HIDDEN, 30))
    return read.T @ read, write @ write.T


def test_the_baseline_is_what_random_turns_give(grams):
    scores = sampled_scores(*grams, 4000, seed=0)
    mean, deviation = expected(*grams)
    size = np.trace(grams[0]) * np.trace(grams[1])
    assert mean / size == pytest.approx(1 / HIDDEN)
    assert np.mean(scores**2) * size == pytest.approx(mean, abs=4 * deviation / 4000**0.5)
    assert np.std(scores**2) * size == pytest.approx(deviation, rel=0.1)
    np.testing.assert_array_equal(scores[:3], sampled_scores(*grams, 3, seed=0))


def test_the_inner_product_is_the_square_of_the_norm(grams):
    assert inner(*grams) == pytest.approx(np.trace(grams[0] @ grams[1]))


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_matrices_of_low_rank(rank):
    rng = np.random.default_rng(0)
    write = rng.normal(size=(HIDDEN, rank))
    read = rng.normal(size=(7, HIDDEN))
    found = largest(read.T @ read, write @ write.T)
    want = np.linalg.norm(read @ write, 2) if rank else 0.0
    np.testing.assert_allclose(found.values, [want], rtol=1e-8)
    assert found.converged


def test_what_has_no_pairs_is_refused_by_name(tmp_path):
    form = plain(residual=residual(hyper_connections=streams("dynamic", 3)))
    with pytest.raises(
        ConfigError, match=r"layers\.0\.mlp has no virtual weights: hyper-connections of kind 'dynamic'"
    ):
        virtual_weights(read_stream_map(written(tmp_path, form)))
    found = read_stream_map(written(tmp_path, plain()))
    assert len(writers_of(found)) == len(readers_of(found)) == LAYERS
    with pytest.raises(ConfigError, match=r"'fc' is not WRITER:READER"):
        virtual_weights(found, pairs=["fc"])
    with pytest.raises(ConfigError, match=r"no reader is named '\*\.mlp\.fx'"):
        virtual_weights(found, pairs=["*.mlp.proj:*.mlp.fx"])
    with pytest.raises(ConfigError, match="no pair of a writer and a later reader"):
        virtual_weights(found, pairs=["*.2.mlp.proj:*.0.mlp.fc"])


def test_an_interrupted_run_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    told = []

    def interrupt(step, done, total):
        told.append((step, done, total))
        if step == "pairs" and done > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        virtual_weights(read_stream_map(written(tmp_path, plain())), progress=interrupt)
    assert ("reading writers", 0, 2) in told
    assert told[-1][2] == LAYERS
    assert not list((tmp_path / "temporary").iterdir())


def test_weights_that_are_not_finite_are_refused(tmp_path):
    """Lanczos' iteration would end at once and call the spectral norm 0."""
    (unit, *_) = writers_of(read_stream_map(written(tmp_path, plain())))
    (writer,) = unit.members
    values = writer.matrix.load()
    values[3, 2] = np.nan
    broken = replace(writer, matrix=replace(writer.matrix, load=lambda: values))
    with pytest.raises(CheckpointError, match=r"layers\.0\.mlp\.proj.*NaN or infinity"):
        gram(replace(unit, members=(broken,)), HIDDEN)
