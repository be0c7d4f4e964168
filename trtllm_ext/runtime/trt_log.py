"""A TensorRT logger that remembers what was said, so that a None from TensorRT becomes a sentence.

TensorRT reports a failure by logging an error and returning None (or False). Whoever calls it keeps one of
these loggers, and after a failure puts `errors_since(mark)` into the exception.
"""

import functools
import logging
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
# How the sentences of our library of plugins begin.
_OF_PLUGINS = "trtllm_ext: "
# Every logger that NVIDIA's TensorRT was given. It keeps the address of one, of whichever builder, runtime or refitter
# was there first, until none of them is left, and uses it for the others too, and for plugins. So none may go.
_given: list[Any] = []


@functools.cache
def _logger_class(trt: Any) -> type:
    class RecordingLogger(trt.ILogger):
        """Keeps errors and warnings; passes everything on to Python's `logging` ("trtllm_ext.tensorrt")."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.num_errors = 0
            self.warnings: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if msg.startswith(_OF_PLUGINS):  # which have no logger of their own: it may be for any of them
                for each in _given:
                    if each is not self:
                        each.keep(severity, msg)
            _LOG.log(self.keep(severity, msg), "%s", msg)

        def keep(self, severity: Any, msg: str) -> int:
            """Remember an error or a warning; the level for Python's `logging`."""
            name = str(severity).rsplit(".", 1)[-1]
            level = _LEVELS.get(name, logging.INFO)
            if level == logging.ERROR:
                self.num_errors += 1
                self.errors.append(msg)
                del self.errors[:-_KEPT]
                # The text reaches the user in an exception; logging it as an error too would show it twice.
                level = logging.DEBUG
            elif level == logging.WARNING:
                self.warnings.append(msg)
                del self.warnings[:-_KEPT]
            return level

        def mark(self) -> int:
            """A position in the stream of errors, for `errors_since`."""
            return self.num_errors

        def errors_since(self, mark: int) -> str:
            """The errors logged after `mark`, one text; empty when there were none."""
            new = self.num_errors - mark
            return "; ".join(text.strip() for text in self.errors[-new:]) if new > 0 else ""

    return RecordingLogger


def recording_logger(trt: Any) -> Any:
    """A new recording `trt.ILogger` for the module `trt` (real or embedded)."""
    logger = _logger_class(trt)()
    if backend.choice().engine == "tensorrt":
        _given.append(logger)
    return logger
