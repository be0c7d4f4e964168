"""Enumerations of the plugin interface; names and values are those of TensorRT 10.14."""

from trtllm_ext.embedded.enums.base import NativeEnum


class PluginFieldType(NativeEnum):
    """Element type of a plugin field."""

    FLOAT16 = 0
    FLOAT32 = 1
    FLOAT64 = 2
    INT8 = 3
    INT16 = 4
    INT32 = 5
    CHAR = 6
    DIMS = 7
    UNKNOWN = 8
    BF16 = 9
    INT64 = 10
    FP8 = 11
    INT4 = 12
    FP4 = 13


class PluginCapabilityType(NativeEnum):
    """Part of a plugin's interface."""

    CORE = 0
    BUILD = 1
    RUNTIME = 2


class PluginCreatorVersion(NativeEnum):
    """Version of a plugin creator."""

    V1 = 0
    V1_PYTHON = 64


class PluginArgDataType(NativeEnum):
    """Type of an argument of an ahead-of-time plugin kernel."""

    INT8 = 0
    INT16 = 1
    INT32 = 2


class PluginArgType(NativeEnum):
    """Kind of an argument of an ahead-of-time plugin kernel."""

    INT = 0


class QuickPluginCreationRequest(NativeEnum):
    """Which implementation of a plugin is asked for."""

    UNKNOWN = 0
    PREFER_JIT = 1
    PREFER_AOT = 2
    STRICT_JIT = 3
    STRICT_AOT = 4


class TensorRTPhase(NativeEnum):
    """Whether a plugin is made for building or for running."""

    BUILD = 0
    RUNTIME = 1


class APILanguage(NativeEnum):
    """Language that an interface is implemented in."""

    CPP = 0
    PYTHON = 1
