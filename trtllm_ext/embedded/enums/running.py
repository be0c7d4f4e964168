"""Enumerations of reading, inspecting and running an engine; names and values are those of TensorRT 10.14."""

from trtllm_ext.embedded.enums.base import NativeEnum


class Severity(NativeEnum):
    """Severity of a log message; reached as `ILogger.Severity` too, and its members through `ILogger`."""

    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class LayerInformationFormat(NativeEnum):
    """Format of an engine inspector's text."""

    ONELINE = 0
    JSON = 1


class ExecutionContextAllocationStrategy(NativeEnum):
    """Who allocates a context's device memory, and when."""

    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


class SerializationFlag(NativeEnum):
    """Bits of a serialization config."""

    EXCLUDE_WEIGHTS = 0
    EXCLUDE_LEAN_RUNTIME = 1
    INCLUDE_REFIT = 2


class EngineStat(NativeEnum):
    """Numbers an engine knows of itself."""

    TOTAL_WEIGHTS_SIZE = 0
    STRIPPED_WEIGHTS_SIZE = 1


class AllocatorFlag(NativeEnum):
    """What an allocation must be able to do."""

    RESIZABLE = 0


class TempfileControlFlag(NativeEnum):
    """Which temporary files a runtime may use."""

    ALLOW_IN_MEMORY_FILES = 0
    ALLOW_TEMPORARY_FILES = 1


class SeekPosition(NativeEnum):
    """Origin of a seek in a stream reader."""

    SET = 0
    CUR = 1
    END = 2


class ErrorCodeTRT(NativeEnum):
    """Kind of an error, for an error recorder."""

    SUCCESS = 0
    UNSPECIFIED_ERROR = 1
    INTERNAL_ERROR = 2
    INVALID_ARGUMENT = 3
    INVALID_CONFIG = 4
    FAILED_ALLOCATION = 5
    FAILED_INITIALIZATION = 6
    FAILED_EXECUTION = 7
    FAILED_COMPUTATION = 8
    INVALID_STATE = 9
    UNSUPPORTED_STATE = 10
