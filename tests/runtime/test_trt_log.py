"""Loggers that remember what TensorRT says, and what it is given."""

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
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
    trt_log._common_logger.cache_clear()
    monkeypatch.setattr(backend, "choice", lambda: SimpleNamespace(engine="tensorrt"))
    yield
    trt_log._common_logger.cache_clear()


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


def test_the_embedded_engine_is_given_the_logger_itself():
    logger = recording_logger(trt)
    assert logger.given is logger
    gone = weakref.ref(logger)
    del logger
    gc.collect()
    assert gone() is None


def test_what_nvidias_library_is_given_stays_and_what_remembers_goes(as_on_tensorrt):
    logger = recording_logger(trt)
    given, gone = weakref.ref(logger.given), weakref.ref(logger)
    del logger
    gc.collect()
    assert gone() is None
    assert given() is not None and recording_logger(trt).given is given()


def test_all_remember_what_nvidias_library_says(as_on_tensorrt, caplog):
    first, second = recording_logger(trt), recording_logger(trt)
    first.given.log(ERROR, "trtllm_ext: FeedForward 'mlp': too many tokens")
    late = recording_logger(trt)
    mark = second.mark()
    first.given.log(WARNING, "beside")
    first.given.log(ERROR, "other")
    assert first.errors_since(0) == "trtllm_ext: FeedForward 'mlp': too many tokens; other"
    assert second.errors_since(mark) == late.errors_since(0) == "other"
    assert late.warnings == ["beside"]
    assert [record.getMessage() for record in caplog.records] == ["beside"]


def test_several_threads_speak_at_once(as_on_tensorrt):
    logger = recording_logger(trt)
    given = logger.given
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: [given.log(ERROR, str(number)) for _ in range(200)], range(4)))
    assert logger.num_errors == 800 and len(logger.errors) == 400


class _SpeaksWhenItGoes:
    def __init__(self, logger):
        self.logger = logger

    def __del__(self):
        self.logger.log(ERROR, "going")


class _ListThatCollects(list):
    def __init__(self, logger):
        super().__init__()
        self.waiting = [_SpeaksWhenItGoes(logger)]

    def append(self, text):
        super().append(text)
        self.waiting.clear()


def test_what_goes_while_a_logger_is_busy_may_speak_to_it():
    logger = recording_logger(trt)
    logger.errors = _ListThatCollects(logger)
    done = threading.Thread(target=logger.log, args=(ERROR, "first"), daemon=True)
    done.start()
    done.join(10)
    assert not done.is_alive()
    assert logger.errors_since(0) == "first; going"
