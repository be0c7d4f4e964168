"""Loggers: every object of the API reports through the one that its Builder or Runtime was given."""

import sys
import time
from typing import ClassVar

from trtllm_ext.embedded.enums import Severity as _Severity
from trtllm_ext.embedded.surface.lifetime import Lifetime

_LETTER = {
    _Severity.INTERNAL_ERROR: "F",
    _Severity.ERROR: "E",
    _Severity.WARNING: "W",
    _Severity.INFO: "I",
    _Severity.VERBOSE: "V",
}


class ILogger(Lifetime):
    """The interface of a logger: a subclass overrides `log()`."""

    # The nested class goes by its own name in TensorRT's API too.
    Severity = _Severity
    INTERNAL_ERROR: ClassVar[_Severity] = _Severity.INTERNAL_ERROR
    ERROR: ClassVar[_Severity] = _Severity.ERROR
    WARNING: ClassVar[_Severity] = _Severity.WARNING
    INFO: ClassVar[_Severity] = _Severity.INFO
    VERBOSE: ClassVar[_Severity] = _Severity.VERBOSE

    def __init__(self) -> None:
        """Nothing to set up; subclasses call it as TensorRT demands."""

    def log(self, severity: _Severity, msg: str) -> None:
        """Take one message.

        Raises RuntimeError unless a subclass overrides it.
        """
        raise RuntimeError(f"{type(self).__name__} must override ILogger.log(); message was: {msg}")


class Logger(ILogger):
    """Writes messages of `min_severity` or worse to stderr, with time and severity."""

    def __init__(self, min_severity: _Severity = _Severity.WARNING) -> None:
        super().__init__()
        self._min_severity = min_severity

    @property
    def min_severity(self) -> _Severity:
        """The least severe kind of message that is written."""
        return self._min_severity

    @min_severity.setter
    def min_severity(self, severity: _Severity) -> None:
        self._min_severity = _Severity(severity)

    def log(self, severity: _Severity, msg: str) -> None:
        """Write `msg` to stderr if it is as severe as `min_severity` or more."""
        if int(severity) <= int(self.min_severity):
            stamp = time.strftime("%m/%d/%Y-%H:%M:%S")
            sys.stderr.write(f"[{stamp}] [TRT] [{_LETTER[severity]}] {msg}\n")
