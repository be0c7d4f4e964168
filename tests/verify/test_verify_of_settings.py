"""`verify_engine` beside checkpoints that are not quite the engine's; with settings of another time and place."""

import shutil

import numpy as np
import pytest
from dressed_tensorrt import dressed
from stack_forms import checkpoint, config_of, plain, residual
from verified_models import ALL, engine_of, stack, with_weight

import trtllm_ext as tx
from trtllm_ext.builder import refit_engine_dir
from trtllm_ext.checkpoint import Checkpoint, load_checkpoint
from trtllm_ext.errors import ConfigError
from trtllm_ext.verify import own_weights, verify_engine

BUDGET_S = 4

pytestmark = pytest.mark.usefixtures("one_thread")


def test_nothing_is_written(tmp_path, monkeypatch):
    """NVIDIA's engine, whose builds into directories leave model.cache."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    found = stack(tmp_path / "c", num_hidden_layers=1)
    with dressed("11.4", "tensorrt"):
        report = verify_engine(engine_of(found), found, bisect=True)
    assert report.is_right, report.verdict
    assert any("does not give its weights back" in note for note in report.notes)
    assert list((tmp_path / "here").iterdir()) == []


def test_a_timing_cache_that_is_gone(tmp_path):
    stack(tmp_path / "c", num_hidden_layers=1)
    (tmp_path / "times").mkdir()
    first, second = (str(tmp_path / "times" / name) for name in ("first", "second"))
    config = tx.BuildConfig(max_num_tokens=8, output_timing_cache=first)
    tx.build_engine_dir(tmp_path / "c", tmp_path / "e", config)
    tx.build_engine_dir(
        tmp_path / "c", tmp_path / "e", config.updated(input_timing_cache=first, output_timing_cache=second)
    )
    shutil.rmtree(tmp_path / "times")
    assert verify_engine(tmp_path / "e", tmp_path / "c", bisect=True).is_right
    assert not (tmp_path / "times").exists()


def test_an_engine_that_was_stripped_and_filled(tmp_path):
    """Built anew with the same settings it would be stripped again."""
    stack(tmp_path / "c", num_hidden_layers=1)
    tx.build_engine_dir(tmp_path / "c", tmp_path / "e", tx.BuildConfig(max_num_tokens=8, use_strip_plan=True))
    refit_engine_dir(tmp_path / "e", tmp_path / "c", tmp_path / "e")
    report = verify_engine(tmp_path / "e", tmp_path / "c", bisect=True)
    assert report.is_right
    assert report.bisection.same_bits
    assert verify_engine(tmp_path / "e").is_right


def test_a_weight_that_differs_within_the_tolerance(tmp_path):
    """bfloat16 allows 5e-2; the weights themselves are compared too."""
    found = stack(tmp_path / "c", "bfloat16")
    name = "transformer.layers.1.mlp.fc.bias"
    report = verify_engine(engine_of(found, ALL), with_weight(found, name, 0, slice(None)))
    assert (report.first_wrong, report.network) == (None, None)
    assert (report.is_right, report.weights_that_differ) == (False, (name,))
    assert report.verdict.startswith(
        "All 10 tensors that the engine exposes are within tolerance. The engine holds"
    )


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_weights_of_the_same_numbers(tmp_path, dtype):
    """Biases of zeros and norms of ones, as models begin with, are stored once for all layers."""
    found = stack(tmp_path / "c", dtype)
    usual = {"bias": 0, "norm.weight": 1}
    weights = {
        name: next((np.full_like(value, each) for end, each in usual.items() if name.endswith(end)), value)
        for name, value in found.weights.items()
    }
    found = Checkpoint(found.config, weights)
    engine = engine_of(found)
    assert verify_engine(engine).is_right
    assert verify_engine(engine, found).weights == "same"
    for name in ("transformer.layers.1.mlp.fc.bias", "transformer.layers.2.post_layernorm.weight"):
        assert verify_engine(engine, with_weight(found, name, 1e-3, 3)).weights_that_differ == (name,)


def test_scalars_of_which_random_numbers_repeat(tmp_path, monkeypatch):
    """bfloat16 has few numbers: those by which the weights are found in an engine must not turn up twice."""
    gated = plain(residual=residual(gate="scalar"))
    checkpoint(tmp_path / "c", config_of(gated, "bfloat16", layers=2))
    found = with_weight(load_checkpoint(tmp_path / "c"), "transformer.layers.1.mlp_scale.weight", 0.5, 0)
    # With it both layers draw the same.
    monkeypatch.setattr(own_weights, "_SEED", 231)
    assert verify_engine(engine_of(found), found).weights == "same"


@pytest.mark.parametrize("settings", [{"num_hidden_layers": 2}, {"hidden_size": 8}, {"dtype": "float16"}])
def test_a_checkpoint_of_another_size_or_type(tmp_path, settings):
    found = stack(tmp_path / "c")
    stack(tmp_path / "other", **settings)
    name = next(iter(settings))
    with pytest.raises(ConfigError, match=f"another model than the engine was built from: config {name} is "):
        verify_engine(engine_of(found), tmp_path / "other")
