"""A build that is watched, and stopped; the timing cache that it starts from and leaves."""

import logging
from dataclasses import replace

import numpy as np
import pytest
from dressed_tensorrt import dressed

import trtllm_ext as tx
import trtllm_ext.embedded as trt
from trtllm_ext import backend, models
from trtllm_ext.builder import BuildConfig, build_engine_dir, plan_build, rank_check
from trtllm_ext.builder.monitor import progress_monitor
from trtllm_ext.checkpoint.sharding import with_ranks
from trtllm_ext.errors import BuildError, ConfigError
from trtllm_ext.models import sublayer_stack_config, write_random_checkpoint

BUDGET_S = 4

LIMITS = {"max_num_tokens": 8, "opt_num_tokens": 4}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """One model, for one rank and for two."""
    folder = tmp_path_factory.mktemp("checkpoints")
    config = sublayer_stack_config(hidden_size=8, ffn_hidden_size=16, num_hidden_layers=2)
    for size in (1, 2):
        (folder / str(size)).mkdir()
        write_random_checkpoint(folder / str(size), with_ranks(config, size))
    return folder


def builder_and_network():
    builder = tx.Builder()
    config = builder.create_builder_config(precision="float32")
    network = builder.create_network()
    with tx.net_guard(network):
        x = tx.Tensor(name="x", dtype="float32", shape=[4])
        (x + x).mark_output("y", "float32")
    return builder, network, config


def test_the_phases_reach_the_progress_of_a_build(checkpoints, tmp_path):
    told = []
    build_engine_dir(
        checkpoints / "1",
        tmp_path / "engine",
        BuildConfig(**LIMITS),
        progress=lambda step, done: told.append(step),
    )
    steps = list(dict.fromkeys(told))
    assert steps == [
        "rank 0: reading the checkpoint",
        "rank 0: defining the network",
        "rank 0: building",
        "rank 0: building, Preparing segments",
    ]


def test_8_6_tells_of_no_phases(checkpoints, tmp_path):
    told = []
    with dressed("8.6.1"):
        build_engine_dir(
            checkpoints / "1",
            tmp_path / "engine",
            BuildConfig(**LIMITS),
            progress=lambda step, done: told.append(step),
        )
    assert "rank 0: building" in told
    assert not any("building, " in step for step in told)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_the_watcher_raises_ends_the_build(checkpoints, tmp_path, error):
    def stop(step, done):
        if step.endswith("Preparing segments"):
            raise error("enough")

    with pytest.raises(error, match="enough"):
        build_engine_dir(checkpoints / "1", tmp_path / "engine", BuildConfig(**LIMITS), progress=stop)
    assert not (tmp_path / "engine").exists()


def test_a_build_in_memory_is_watched_and_a_stopped_config_builds_again():
    builder, network, config = builder_and_network()
    told = []

    def stop(phase):
        told.append(phase)
        if len(told) == 3:
            raise KeyboardInterrupt

    assert builder.report_progress(config, stop)
    with pytest.raises(KeyboardInterrupt):
        builder.build_engine(network, config)
    assert builder.build_engine(network, config).nbytes > 0
    assert len(told) > 3
    assert told[0] == "", "the phase around all others has no name of its own"


def test_the_monitor_says_stop_and_remembers_why():
    def fail(phase):
        if phase == "inner":
            raise KeyboardInterrupt

    monitor = progress_monitor(trt, fail)
    monitor.phase_start("outer", None, 2)
    assert monitor.step_complete("outer", 0)
    monitor.phase_start("inner", "outer", 1)
    assert not monitor.step_complete("inner", 0)
    assert not monitor.step_complete("outer", 1)
    assert isinstance(monitor.problem, KeyboardInterrupt)


# --- timing caches --------------------------------------------------------------------------------------------------


def entries(path):
    cache = trt.Builder(trt.Logger()).create_builder_config().create_timing_cache(path.read_bytes())
    return {str(key): cache.query(key).timingMSec for key in cache.queryKeys()}


def test_a_cache_goes_in_and_out(checkpoints, tmp_path):
    cache = tmp_path / "model.cache"
    build_engine_dir(checkpoints / "1", tmp_path / "a", BuildConfig(**LIMITS, output_timing_cache=str(cache)))
    first = entries(cache)
    assert first
    again = BuildConfig(
        **LIMITS, input_timing_cache=str(cache), output_timing_cache=str(tmp_path / "next.cache")
    )
    build_engine_dir(checkpoints / "1", tmp_path / "a", again)
    assert entries(tmp_path / "next.cache") == first, "times are kept, not measured anew"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a", "model.cache", "next.cache"]


@pytest.mark.parametrize("damage", ["noise", "cut", "foreign"])
def test_a_cache_that_does_not_fit_is_left_aside_and_said(checkpoints, tmp_path, caplog, damage):
    cache, config = tmp_path / "model.cache", BuildConfig(**LIMITS)
    build_engine_dir(checkpoints / "1", tmp_path / "a", replace(config, output_timing_cache=str(cache)))
    good = cache.read_bytes()
    cache.write_bytes(
        {"noise": np.random.default_rng(0).bytes(999), "cut": good[:-3], "foreign": b"ptrt" + bytes(60)}[
            damage
        ]
    )
    config = replace(config, input_timing_cache=str(cache), output_timing_cache=str(tmp_path / "next.cache"))
    with caplog.at_level(logging.WARNING):
        build_engine_dir(checkpoints / "1", tmp_path / "b", config)
    [told] = [each.message for each in caplog.records if "timing cache" in each.message]
    assert told.startswith(f"the timing cache {cache} is left aside: create_timing_cache: ")
    assert ".." not in told.replace(str(cache), "")
    assert entries(tmp_path / "next.cache").keys()


def test_a_cache_of_another_device_is_left_aside_and_said(tmp_path, caplog, monkeypatch):
    """TensorRT's answer to one: `set_timing_cache` returns False."""
    set_cache = trt.IBuilderConfig.set_timing_cache
    refused = []

    def refuse_first(self, cache, ignore_mismatch):
        assert not ignore_mismatch
        refused.append(cache)
        return len(refused) > 1 and set_cache(self, cache, ignore_mismatch)

    monkeypatch.setattr(trt.IBuilderConfig, "set_timing_cache", refuse_first)
    (tmp_path / "model.cache").write_bytes(b"")
    config = tx.Builder().create_builder_config(precision="float32", timing_cache=tmp_path / "model.cache")
    assert config.trt_builder_config.get_timing_cache() is refused[1]
    assert "is left aside: it is damaged, or of another library, version or device" in caplog.text


def test_a_cache_that_cannot_be_written_leaves_the_old_one(checkpoints, tmp_path):
    builder, _, config = builder_and_network()
    with pytest.raises(BuildError, match="it is a directory"):
        builder.save_timing_cache(config, tmp_path)
    (tmp_path / "model.cache").write_bytes(b"old")

    class Full:
        def get_timing_cache(self):
            return self

        def serialize(self):
            raise OSError(28, "No space left on device")

    config.trt_builder_config = Full()
    with pytest.raises(BuildError, match="the disk is full"):
        builder.save_timing_cache(config, tmp_path / "model.cache")
    assert (tmp_path / "model.cache").read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["model.cache"]


# --- several ranks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("release", ["8.6.1", "10.14.1.48.post1"])
def test_ranks_are_refused_before_weights_are_read(checkpoints, tmp_path, monkeypatch, release):
    def read(*args, **kwargs):
        raise AssertionError("weights are read")

    monkeypatch.setattr(models, "model_from_checkpoint", read)
    with dressed(release):
        for build in (
            lambda: build_engine_dir(checkpoints / "2", tmp_path / "engine", BuildConfig(**LIMITS)),
            lambda: plan_build(checkpoints / "2", BuildConfig(**LIMITS)),
            lambda: plan_build(checkpoints / "1", BuildConfig(**LIMITS), tp_size=2),
        ):
            with pytest.raises(
                ConfigError, match=r"split over 2 ranks, and .* has no collective layer"
            ) as caught:
                build()
            assert (
                "Use TensorRT 11 or later, build with TRTLLM_EXT_BACKEND=embedded, or for one rank convert"
                in str(caught.value)
            )
    assert not (tmp_path / "engine").exists()


def test_ranks_are_built_where_there_are_collectives(checkpoints, tmp_path):
    build_engine_dir(checkpoints / "2", tmp_path / "engine", BuildConfig(**LIMITS))
    with dressed("11.4.0.106"):
        assert len(plan_build(checkpoints / "2", BuildConfig(**LIMITS)).ranks) == 2


def test_tensorrt_llm_brings_its_own_collectives(monkeypatch):
    with dressed("8.6.1"):
        real = backend.choice()
        monkeypatch.setattr(backend, "choice", lambda: replace(real, graph="tensorrt_llm"))
        rank_check.check_can_run_ranks(2)
