"""Interfaces that an application implements and hands over; a subclass overrides the methods."""

import sys
from typing import Any, ClassVar, NoReturn

from trtllm_ext.embedded.enums import APILanguage, DataType, ErrorCodeTRT, SeekPosition, TensorLocation
from trtllm_ext.embedded.types import Dims


class InterfaceInfo:
    """Kind and version of an interface."""

    __slots__ = ("kind", "major", "minor")

    def __init__(self, kind: str, major: int, minor: int) -> None:
        self.kind = kind
        self.major = major
        self.minor = minor


class IVersionedInterface:
    """An interface that knows its version and the language that it is implemented in."""

    _info: ClassVar[tuple[str, int, int]] = ("IVersionedInterface", 1, 0)

    @property
    def api_language(self) -> APILanguage:
        """Always PYTHON."""
        return APILanguage.PYTHON

    @property
    def interface_info(self) -> InterfaceInfo:
        """Kind and version."""
        return InterfaceInfo(*self._info)


class Interface:
    """What all interfaces share: nothing to set up, and methods that a subclass must bring."""

    def __init__(self) -> None:
        """Nothing to set up; subclasses call it as TensorRT demands."""

    def _missing(self, method: str) -> NoReturn:
        raise RuntimeError(f"{type(self).__name__} must override {method}()")


class IErrorRecorder(Interface):
    """Collects errors, beside the logger."""

    # Longest description, in characters, that is handed over whole.
    MAX_DESC_LENGTH = 127

    def num_errors(self) -> int:
        """How many errors are kept."""
        self._missing("num_errors")

    def get_error_code(self, arg0: int) -> ErrorCodeTRT:
        """Kind of error number `arg0`."""
        self._missing("get_error_code")

    def get_error_desc(self, arg0: int) -> str:
        """Text of error number `arg0`."""
        self._missing("get_error_desc")

    def has_overflowed(self) -> bool:
        """Whether there were more errors than can be kept."""
        self._missing("has_overflowed")

    def clear(self) -> None:
        """Forget all errors."""
        self._missing("clear")

    def report_error(self, arg0: ErrorCodeTRT, arg1: str) -> bool:
        """Take an error; returns whether it ends what is going on, which the embedded engine leaves open."""
        self._missing("report_error")


class IProgressMonitor(Interface):
    """Is told how a build advances, and may end it."""

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        """A phase of `num_steps` steps begins; `parent_phase` is the phase that it is a part of, or None."""
        self._missing("phase_start")

    def step_complete(self, phase_name: str, step: int) -> bool:
        """Step number `step` of a phase is done; returns whether to go on."""
        self._missing("step_complete")

    def phase_finish(self, phase_name: str) -> None:
        """A phase has ended, whether all of its steps were made or not."""
        self._missing("phase_finish")


class IProfiler(Interface):
    """Is told how long the parts of a run took."""

    def report_layer_time(self, layer_name: str, ms: float) -> None:
        """A part of the engine took `ms` milliseconds."""
        self._missing("report_layer_time")


class Profiler(IProfiler):
    """Prints the times to stdout."""

    def report_layer_time(self, layer_name: str, ms: float) -> None:
        """Print one line."""
        sys.stdout.write(f"{layer_name}: {ms}ms\n")


class IDebugListener(Interface):
    """Is given the debug tensors of a run."""

    def process_debug_tensor(
        self,
        addr: int,
        location: TensorLocation,
        type: DataType,
        shape: Dims,
        name: str,
        stream: int,
    ) -> bool:
        """Look at a tensor at `addr`, valid during the call only; returns whether that succeeded."""
        self._missing("process_debug_tensor")


class IStreamReader(Interface):
    """Gives a serialized engine piece by piece.

    TensorRT documents `read()` by its C++ parameters; what a Python subclass overrides is `read(size) -> buffer`.
    """

    def read(self, destination: Any, size: int) -> Any:
        """The next bytes, `size` at most, as a buffer; an empty one ends the engine."""
        self._missing("read")


class IStreamReaderV2(Interface):
    """As `IStreamReader`, with a position that can be set; a subclass overrides `read(num_bytes, stream)`."""

    def read(self, destination: Any, num_bytes: int, stream: int) -> Any:
        """The next bytes, `num_bytes` at most, as a buffer; an empty one ends the engine."""
        self._missing("read")

    def seek(self, offset: int, where: SeekPosition) -> bool:
        """Go to a position; returns whether it is there."""
        self._missing("seek")
