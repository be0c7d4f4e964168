"""A TensorRT logger that remembers what was said, so that a None from TensorRT becomes a sentence.

TensorRT reports a failure by logging an error and returning None (or False). Whoever calls it keeps one of
these loggers, and after a failure puts `errors_since(mark)` into the exception.
"""

import functools
import logging
import threading
import weakref
from typing import Any

from trtllm_ext import backend

_LOG = logging.getLogger("trtllm_ext.tensorrt")
_LEVELS = {
    "INTERNAL_ERROR": logging.ERROR,
    "ERROR": logging.ERROR,
    "WARNING": logging.WARNING,
    "INFO": logging.INFO,
    "VERBOSE": logging.DEBUG,
}
_KEPT = 400


@functools.cache
def _logger_class(trt: Any) -> type:
    class RecordingLogger(trt.ILogger):
        """Keeps errors and warnings; passes everything on to Python's `logging` ("trtllm_ext.tensorrt")."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.num_errors = 0
            self.warnings: list[str] = []
            self._lock = _new_lock()

        @property
        def given(self) -> Any:
            """What a library is to be given: this logger, or the one by which NVIDIA's tells all of them."""
            return self if backend.choice().engine == "embedded" else _common_logger(trt)

        def log(self, severity: Any, msg: str) -> None:
            _pass_on(severity, msg)
            self.keep(severity, msg)

        def keep(self, severity: Any, msg: str) -> None:
            """Remember an error or a warning."""
            level = _level(severity)
            with self._lock:
                if level == logging.ERROR:
                    self.num_errors += 1
                    self.errors.append(msg)
                    del self.errors[:-_KEPT]
                elif level == logging.WARNING:
                    self.warnings.append(msg)
                    del self.warnings[:-_KEPT]

        def mark(self) -> int:
            """A position in the stream of errors, for `errors_since`."""
            return self.num_errors

        def errors_since(self, mark: int) -> str:
            """The errors logged after `mark`, one text; empty when there were none."""
            with self._lock:
                new = self.num_errors - mark
                return "; ".join(text.strip() for text in self.errors[-new:]) if new > 0 else ""

    return RecordingLogger


@functools.cache
def _common_logger(trt: Any) -> Any:
    class CommonLogger(trt.ILogger):
        """Tells every recording logger that there is; never goes.

        NVIDIA's library keeps the address of the first logger of a process, for plugins and for whatever else speaks
        through getLogger(), as long as any builder, runtime or refitter lives: longer than the one that brought it.
        """

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._listeners: weakref.WeakSet[Any] = weakref.WeakSet()
            self._lock = _new_lock()

        def listen(self, logger: Any) -> None:
            with self._lock:
                self._listeners.add(logger)

        def log(self, severity: Any, msg: str) -> None:
            _pass_on(severity, msg)
            with self._lock:
                listeners = list(self._listeners)
            for each in listeners:
                each.keep(severity, msg)

    return CommonLogger()


def recording_logger(trt: Any) -> Any:
    """A new recording `trt.ILogger` for the module `trt` (real or embedded), whose `given` the library is given.

    On NVIDIA's it remembers what is said in the whole process as long as it lives: by whom, nothing tells.
    """
    logger = _logger_class(trt)()
    if logger.given is not logger:
        logger.given.listen(logger)
    return logger


def _new_lock() -> Any:
    """A lock that its holder may take again: garbage may be collected meanwhile, and what goes may speak."""
    return threading.RLock()


def _level(severity: Any) -> int:
    return _LEVELS.get(str(severity).rsplit(".", 1)[-1], logging.INFO)


def _pass_on(severity: Any, msg: str) -> None:
    level = _level(severity)
    # The text of an error reaches the user in an exception; logging it as an error too would show it twice.
    _LOG.log(logging.DEBUG if level == logging.ERROR else level, "%s", msg)
