"""Loggers that remember what TensorRT says, and stay where it goes on using them."""

import gc
import weakref
from types import SimpleNamespace

import pytest

from trtllm_ext import backend
from trtllm_ext.runtime import trt_log
from trtllm_ext.runtime.trt_log import recording_logger

BUDGET_S = 1

trt = backend.tensorrt()
ERROR, WARNING = trt.ILogger.Severity.ERROR, trt.ILogger.Severity.WARNING


@pytest.fixture
def as_on_tensorrt(monkeypatch):
    monkeypatch.setattr(trt_log, "_given", [])
    monkeypatch.setattr(backend, "choice", lambda: SimpleNamespace(engine="tensorrt"))


def test_errors_since_a_mark():
    logger = recording_logger(trt)
    logger.log(ERROR, "before")
    mark = logger.mark()
    assert logger.errors_since(mark) == ""
    logger.log(WARNING, "beside")
    logger.log(ERROR, "one")
    logger.log(ERROR, "other\n")
    assert logger.errors_since(mark) == "one; other"
    assert logger.warnings == ["beside"]


def test_the_embedded_engines_loggers_go():
    logger = weakref.ref(recording_logger(trt))
    gc.collect()
    assert logger() is None


def test_nvidias_loggers_stay(as_on_tensorrt):
    loggers = [weakref.ref(recording_logger(trt)) for _ in range(3)]
    gc.collect()
    assert all(each() is not None for each in loggers)


def test_what_plugins_tell_one_logger_all_remember(as_on_tensorrt):
    first, second, third = (recording_logger(trt) for _ in range(3))
    first.log(ERROR, "trtllm_ext: FeedForward 'mlp': too many tokens")
    first.log(ERROR, "of the first one's own")
    assert second.errors_since(0) == third.errors_since(0) == "trtllm_ext: FeedForward 'mlp': too many tokens"
    second.log(ERROR, "trtllm_ext: said to the second")
    assert [each.num_errors for each in (first, second, third)] == [3, 2, 2]
