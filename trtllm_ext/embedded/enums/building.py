"""Enumerations of making a network and building an engine; names and values are those of TensorRT 10.14."""

from trtllm_ext.embedded.enums.base import NativeEnum


class NetworkDefinitionCreationFlag(NativeEnum):
    """Bits of the flags given to `Builder.create_network()`."""

    EXPLICIT_BATCH = 0
    STRONGLY_TYPED = 1
    PREFER_JIT_PYTHON_PLUGINS = 2
    PREFER_AOT_PYTHON_PLUGINS = 3


class BuilderFlag(NativeEnum):
    """Bits of an `IBuilderConfig`."""

    FP16 = 0
    INT8 = 1
    DEBUG = 2
    GPU_FALLBACK = 3
    REFIT = 4
    DISABLE_TIMING_CACHE = 5
    TF32 = 6
    SPARSE_WEIGHTS = 7
    SAFETY_SCOPE = 8
    OBEY_PRECISION_CONSTRAINTS = 9
    PREFER_PRECISION_CONSTRAINTS = 10
    DIRECT_IO = 11
    REJECT_EMPTY_ALGORITHMS = 12
    VERSION_COMPATIBLE = 13
    EXCLUDE_LEAN_RUNTIME = 14
    FP8 = 15
    ERROR_ON_TIMING_CACHE_MISS = 16
    BF16 = 17
    DISABLE_COMPILATION_CACHE = 18
    WEIGHTLESS = 19
    STRIP_PLAN = 19
    REFIT_IDENTICAL = 20
    WEIGHT_STREAMING = 21
    INT4 = 22
    REFIT_INDIVIDUAL = 23
    STRICT_NANS = 24
    MONITOR_MEMORY = 25
    FP4 = 26
    EDITABLE_TIMING_CACHE = 27
    DISTRIBUTIVE_INDEPENDENCE = 28


class MemoryPoolType(NativeEnum):
    """Memory pools whose size a build may be limited to."""

    WORKSPACE = 0
    DLA_MANAGED_SRAM = 1
    DLA_LOCAL_DRAM = 2
    DLA_GLOBAL_DRAM = 3
    TACTIC_DRAM = 4
    TACTIC_SHARED_MEMORY = 5


class PreviewFeature(NativeEnum):
    """Features that are off or on until they become the rule."""

    PROFILE_SHARING_0806 = 0
    ALIASED_PLUGIN_IO_10_03 = 1
    RUNTIME_ACTIVATION_RESIZE_10_10 = 2


class ProfilingVerbosity(NativeEnum):
    """How much an engine tells of its layers."""

    LAYER_NAMES_ONLY = 0
    NONE = 1
    DETAILED = 2


class HardwareCompatibilityLevel(NativeEnum):
    """Which other GPUs an engine may run on."""

    NONE = 0
    AMPERE_PLUS = 1
    SAME_COMPUTE_CAPABILITY = 2


class RuntimePlatform(NativeEnum):
    """Which other platforms an engine may run on."""

    SAME_AS_BUILD = 0
    WINDOWS_AMD64 = 1


class EngineCapability(NativeEnum):
    """Runtime that an engine is restricted to."""

    STANDARD = 0
    SAFETY = 1
    DLA_STANDALONE = 2


class DeviceType(NativeEnum):
    """Device that a layer runs on."""

    GPU = 0
    DLA = 1


class TacticSource(NativeEnum):
    """Libraries a build may choose kernels from."""

    CUBLAS = 0
    CUBLAS_LT = 1
    CUDNN = 2
    EDGE_MASK_CONVOLUTIONS = 3
    JIT_CONVOLUTIONS = 4


class TilingOptimizationLevel(NativeEnum):
    """Effort spent on tiling."""

    NONE = 0
    FAST = 1
    MODERATE = 2
    FULL = 3


class QuantizationFlag(NativeEnum):
    """Bits of the quantization flags of a config."""

    CALIBRATE_BEFORE_FUSION = 0


class CalibrationAlgoType(NativeEnum):
    """Version of a calibrator."""

    LEGACY_CALIBRATION = 0
    ENTROPY_CALIBRATION = 1
    ENTROPY_CALIBRATION_2 = 2
    MINMAX_CALIBRATION = 3
