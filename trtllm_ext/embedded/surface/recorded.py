"""Objects that report their errors: to the logger, and to an error recorder where one is set."""

from typing import Any

from trtllm_ext.embedded.enums import ErrorCodeTRT
from trtllm_ext.embedded.logger import ILogger
from trtllm_ext.embedded.surface.interfaces import IErrorRecorder


class Recorded:
    """The `error_recorder` of an object, and the way its errors go.

    Unlike TensorRT, which tells a recorder instead of the logger, errors always go to the logger too.
    """

    __slots__ = ("_error_recorder", "_logger")
    _logger: ILogger
    _error_recorder: IErrorRecorder | None

    def _report_to(self, logger: ILogger) -> None:
        self._logger = logger
        self._error_recorder = None

    @property
    def error_recorder(self) -> IErrorRecorder | None:
        """Told of every error of this object; None, the default, for nobody. Other objects raise TypeError."""
        return self._error_recorder

    @error_recorder.setter
    def error_recorder(self, recorder: IErrorRecorder | None) -> None:
        self._error_recorder = as_recorder(recorder)

    def _report(self, message: str, code: ErrorCodeTRT = ErrorCodeTRT.INVALID_ARGUMENT) -> None:
        """Log an error and record it."""
        self._logger.log(ILogger.ERROR, message)
        if self._error_recorder is not None:
            self._error_recorder.report_error(code, message)


def as_recorder(recorder: Any) -> IErrorRecorder | None:
    """A check for what may be set as error recorder."""
    if recorder is not None and not isinstance(recorder, IErrorRecorder):
        raise TypeError(f"an error recorder must be an IErrorRecorder, not {recorder!r}")
    return recorder
