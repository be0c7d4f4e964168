"""What watches a build or takes its errors: progress monitors, timing caches, error recorders."""

import math

import pytest
from tiny_plans import FeedForward, config_with, strongly_typed

import trtllm_ext.embedded as trt

BUDGET_S = 5

SIZES = {"x": ((1, 16), (4, 16), (8, 16))}


def network_of(builder):
    network = strongly_typed(builder)
    FeedForward().define(network)
    return network


class Monitor(trt.IProgressMonitor):
    """Writes down what it is told; ends the build at (phase, step)."""

    def __init__(self, end=None):
        super().__init__()
        self.told, self.end = [], end

    def phase_start(self, phase_name, parent_phase, num_steps):
        self.told.append(("start", phase_name, parent_phase, num_steps))

    def step_complete(self, phase_name, step):
        self.told.append(("step", phase_name, step))
        return (phase_name, step) != self.end

    def phase_finish(self, phase_name):
        self.told.append(("finish", phase_name))


def build(builder, monitor):
    config = config_with(builder, SIZES)
    config.progress_monitor = monitor
    assert config.progress_monitor is monitor
    return builder.build_serialized_network(network_of(builder), config)


def test_a_monitor_is_told_of_phases_within_phases(builder):
    monitor = Monitor()
    assert build(builder, monitor) is not None
    assert monitor.told == [
        ("start", "Building engine", None, 4),
        ("step", "Building engine", 0),
        ("step", "Building engine", 1),
        ("start", "Preparing segments", "Building engine", 1),
        ("step", "Preparing segments", 0),
        ("finish", "Preparing segments"),
        ("step", "Building engine", 2),
        ("step", "Building engine", 3),
        ("finish", "Building engine"),
    ]


@pytest.mark.parametrize("end", [("Building engine", 0), ("Preparing segments", 0), ("Building engine", 3)])
def test_a_monitor_ends_a_build(builder, log, end):
    monitor = Monitor(end)
    assert build(builder, monitor) is None
    assert f"the progress monitor ended the build after step {end[1]} of phase '{end[0]}'" in log.last
    starts = [one[1] for one in monitor.told if one[0] == "start"]
    assert sorted(starts) == sorted(one[1] for one in monitor.told if one[0] == "finish")
    assert build(builder, Monitor()) is not None


def test_a_monitor_that_fails_ends_the_build(builder, log):
    class Broken(Monitor):
        def step_complete(self, phase_name, step):
            raise KeyError("lost")

    assert build(builder, Broken()) is None
    assert "the progress monitor failed in step_complete: 'lost'" in log.last
    assert build(builder, trt.IProgressMonitor()) is None
    assert "must override phase_start" in log.last
    with pytest.raises(TypeError, match="IProgressMonitor"):
        builder.create_builder_config().progress_monitor = print


# Timing caches


def filled_cache(builder):
    config = config_with(builder, SIZES)
    cache = config.create_timing_cache(b"")
    config.set_timing_cache(cache, ignore_mismatch=False)
    assert builder.build_serialized_network(network_of(builder), config) is not None
    return config, cache


def test_a_build_fills_the_timing_cache(builder):
    config, cache = filled_cache(builder)
    (key,) = cache.queryKeys()
    value = cache.query(key)
    assert value.timingMSec > 0
    assert value.tacticHash == 0
    again = config.create_timing_cache(cache.serialize())
    assert [str(one) for one in again.queryKeys()] == [str(key)]
    assert again.query(key).timingMSec == pytest.approx(value.timingMSec)
    assert bytes(again.serialize()) == bytes(cache.serialize())
    config.set_flag(trt.BuilderFlag.DISABLE_TIMING_CACHE)
    cache.reset()
    assert builder.build_serialized_network(network_of(builder), config) is not None
    assert cache.queryKeys() == []


def test_entries_of_a_timing_cache_are_edited(builder):
    _, cache = filled_cache(builder)
    (key,) = cache.queryKeys()
    assert cache.update(key, trt.TimingCacheValue(5, 2.0))
    assert (cache.query(key).tacticHash, cache.query(key).timingMSec) == (5, 2.0)
    assert not cache.update(key, trt.TimingCacheValue(5, -1.0))
    assert not cache.update(key, trt.TimingCacheValue(2**64 - 1, 1.0))
    other = trt.TimingCacheKey.parse("0x" + "0F" * 16)
    assert str(other) == "0x" + "0f" * 16
    assert not cache.update(other, trt.TimingCacheValue(1, 1.0))
    assert math.isnan(cache.query(other).timingMSec)
    assert cache.query(other).tacticHash == 2**64 - 1
    assert cache.update(key, trt.TimingCacheValue(0, math.nan))
    assert cache.queryKeys() == []
    for text in ("0f" * 17, "0x" + "0f" * 15, "0x" + "zz" * 16):
        with pytest.raises(ValueError, match="is not a key"):
            trt.TimingCacheKey.parse(text)


def test_timing_caches_combine(builder):
    config, cache = filled_cache(builder)
    (key,) = cache.queryKeys()
    mine = config.create_timing_cache(b"")
    assert mine.combine(cache, ignore_mismatch=True)
    assert cache.update(key, trt.TimingCacheValue(9, 9.0))
    assert mine.combine(cache, ignore_mismatch=True)
    assert mine.query(key).tacticHash == 0
    damaged = bytes(cache.serialize())[:-1]
    assert config.create_timing_cache(damaged) is None


# Error recorders


class Recorder(trt.IErrorRecorder):
    def __init__(self):
        super().__init__()
        self.errors = []

    def report_error(self, arg0, arg1):
        self.errors.append((arg0, arg1))
        return False


def test_recorders_take_the_errors_of_their_objects(builder, log):
    recorder, runtime, network = Recorder(), trt.Runtime(log), network_of(builder)
    for thing in (builder, runtime, network):
        assert thing.error_recorder is None
        thing.error_recorder = recorder
        assert thing.error_recorder is recorder
    assert runtime.deserialize_cuda_engine(b"nothing") is None
    assert "not an engine" in recorder.errors[-1][1]
    assert isinstance(recorder.errors[-1][0], trt.ErrorCodeTRT)
    assert builder.build_serialized_network(network, builder.create_builder_config()) is None
    assert recorder.errors[-1][1] == log.last
    network.get_layer(99)
    assert "there is no layer 99" in recorder.errors[-1][1]
    with pytest.raises(TypeError, match="IErrorRecorder"):
        builder.error_recorder = 5
    with pytest.raises(RuntimeError, match=r"must override clear\(\)"):
        trt.IErrorRecorder().clear()
