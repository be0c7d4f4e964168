"""`verify_engine` of engines whose stored settings are of another time and place: files, and weights left out."""

import shutil

import pytest
from dressed_tensorrt import dressed
from verified_models import engine_of, stack

import trtllm_ext as tx
from trtllm_ext.builder import refit_engine_dir
from trtllm_ext.verify import verify_engine

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
