"""Loggers that remember what TensorRT says, and the one that stays."""

import gc
import weakref

import pytest

from trtllm_ext import backend
from trtllm_ext.runtime import trt_log
from trtllm_ext.runtime.trt_log import recording_logger

BUDGET_S = 1

trt = backend.tensorrt()
ERROR, WARNING = trt.ILogger.Severity.ERROR, trt.ILogger.Severity.WARNING


@pytest.fixture(autouse=True)
def as_in_a_new_process(monkeypatch):
    monkeypatch.setattr(trt_log, "_first", {})


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


def test_the_first_logger_stays_as_tensorrt_goes_on_using_it():
    loggers = [recording_logger(trt) for _ in range(2)]
    seen = [weakref.ref(each) for each in loggers]
    del loggers
    gc.collect()
    assert [each() is None for each in seen] == [False, True]


def test_what_plugins_tell_the_first_logger_all_remember():
    first, second, third = (recording_logger(trt) for _ in range(3))
    first.log(ERROR, "trtllm_ext: FeedForward 'mlp': too many tokens")
    first.log(ERROR, "of the first one's own")
    assert second.errors_since(0) == third.errors_since(0) == "trtllm_ext: FeedForward 'mlp': too many tokens"
    second.log(ERROR, "trtllm_ext: said to the second")
    assert third.num_errors == 1 and first.num_errors == 2
