"""What an engine is to be built for: flags, limits and optimization profiles."""

from trtllm_ext.embedded.enums import (
    BuilderFlag,
    DeviceType,
    EngineCapability,
    HardwareCompatibilityLevel,
    MemoryPoolType,
    PreviewFeature,
    ProfilingVerbosity,
    QuantizationFlag,
    RuntimePlatform,
    TacticSource,
    TilingOptimizationLevel,
)
from trtllm_ext.embedded.logger import ILogger
from trtllm_ext.embedded.profile import IOptimizationProfile
from trtllm_ext.embedded.surface.device_types import DeviceTypes
from trtllm_ext.embedded.surface.interfaces import IProgressMonitor
from trtllm_ext.embedded.surface.lifetime import Lifetime
from trtllm_ext.embedded.timing_cache import ITimingCache, timing_cache_from
from trtllm_ext.embedded.unsupported import Unsupported

_DEFAULT_FLAGS = 1 << int(BuilderFlag.TF32)
_DEFAULT_PREVIEW_FEATURES = 1 << int(PreviewFeature.PROFILE_SHARING_0806)
_DEFAULT_TACTIC_SOURCES = sum(
    1 << int(source) for source in (TacticSource.EDGE_MASK_CONVOLUTIONS, TacticSource.JIT_CONVOLUTIONS)
)
_NO_LIMIT = 2**63 - 1
# Those of the other pools depend on the device.
_DEFAULT_POOL_LIMITS = {
    MemoryPoolType.DLA_MANAGED_SRAM: 0,
    MemoryPoolType.DLA_LOCAL_DRAM: 2**30,
    MemoryPoolType.DLA_GLOBAL_DRAM: 2**29,
    MemoryPoolType.TACTIC_SHARED_MEMORY: 2**30,
}


class IBuilderConfig(DeviceTypes, Lifetime):
    """Settings of a build. Made by `Builder.create_builder_config()`.

    All of TensorRT's settings are kept and read back. Those that choose among GPU kernels change nothing here; the
    build warns about flags that promise a different engine than the one that is made. `builder_optimization_level`
    says how far ONNX Runtime may fuse: 0 and 1 keep to what leaves every number as it is, see `fusion`.
    """

    __slots__ = (
        "DLA_core",
        "__weakref__",
        "_device_types",
        "_logger",
        "_pool_limits",
        "_preview_features",
        "_profiles",
        "_progress_monitor",
        "_tactic_sources",
        "_timing_cache",
        "avg_timing_iterations",
        "builder_optimization_level",
        "default_device_type",
        "engine_capability",
        "flags",
        "hardware_compatibility_level",
        "l2_limit_for_tiling",
        "max_aux_streams",
        "max_num_tactics",
        "plugins_to_serialize",
        "profile_stream",
        "profiling_verbosity",
        "quantization_flags",
        "remote_auto_tuning_config",
        "runtime_platform",
        "tiling_optimization_level",
    )
    algorithm_selector = Unsupported()
    int8_calibrator = Unsupported()

    def __init__(self, logger: ILogger) -> None:
        self._logger = logger
        self.reset()

    def reset(self) -> None:
        """Back to the defaults, without profiles."""
        self.flags = _DEFAULT_FLAGS
        self.quantization_flags = 0
        self.profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
        self.builder_optimization_level = 3
        self.avg_timing_iterations = 1
        self.max_num_tactics = -1
        self.max_aux_streams = -1
        self.profile_stream = 0
        self.l2_limit_for_tiling = 0
        self.default_device_type = DeviceType.GPU
        self._device_types = {}
        self.remote_auto_tuning_config = ""
        self.DLA_core = -1
        self.engine_capability = EngineCapability.STANDARD
        self.hardware_compatibility_level = HardwareCompatibilityLevel.NONE
        self.runtime_platform = RuntimePlatform.SAME_AS_BUILD
        self.tiling_optimization_level = TilingOptimizationLevel.NONE
        self.plugins_to_serialize: list[str] = []
        self._preview_features = _DEFAULT_PREVIEW_FEATURES
        self._tactic_sources = _DEFAULT_TACTIC_SOURCES
        self._pool_limits = dict(_DEFAULT_POOL_LIMITS)
        self._profiles: list[IOptimizationProfile] = []
        self._timing_cache: ITimingCache | None = None
        self._progress_monitor: IProgressMonitor | None = None

    @property
    def progress_monitor(self) -> IProgressMonitor | None:
        """Told how a build advances; None, the default, for nobody. Other objects raise TypeError."""
        return self._progress_monitor

    @progress_monitor.setter
    def progress_monitor(self, monitor: IProgressMonitor | None) -> None:
        if monitor is not None and not isinstance(monitor, IProgressMonitor):
            raise TypeError(f"a progress monitor must be an IProgressMonitor, not {monitor!r}")
        self._progress_monitor = monitor

    def set_flag(self, flag: BuilderFlag) -> None:
        """Set a flag."""
        self.flags |= 1 << int(flag)

    def clear_flag(self, flag: BuilderFlag) -> None:
        """Clear a flag."""
        self.flags &= ~(1 << int(flag))

    def get_flag(self, flag: BuilderFlag) -> bool:
        """Whether a flag is set."""
        return bool(self.flags >> int(flag) & 1)

    def set_quantization_flag(self, flag: QuantizationFlag) -> None:
        """Set a quantization flag."""
        self.quantization_flags |= 1 << int(flag)

    def clear_quantization_flag(self, flag: QuantizationFlag) -> None:
        """Clear a quantization flag."""
        self.quantization_flags &= ~(1 << int(flag))

    def get_quantization_flag(self, flag: QuantizationFlag) -> bool:
        """Whether a quantization flag is set."""
        return bool(self.quantization_flags >> int(flag) & 1)

    def set_preview_feature(self, feature: PreviewFeature, enable: bool) -> None:
        """Switch a preview feature on or off."""
        bit = 1 << int(feature)
        self._preview_features = self._preview_features | bit if enable else self._preview_features & ~bit

    def get_preview_feature(self, feature: PreviewFeature) -> bool:
        """Whether a preview feature is on."""
        return bool(self._preview_features >> int(feature) & 1)

    def set_tactic_sources(self, tactic_sources: int) -> bool:
        """Keep a choice of kernel libraries."""
        self._tactic_sources = tactic_sources
        return True

    def get_tactic_sources(self) -> int:
        """The kernel libraries chosen."""
        return self._tactic_sources

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        """Limit a memory pool to `pool_size` bytes; logs an error and changes nothing for a negative size."""
        if pool_size < 0:
            self._logger.log(
                ILogger.ERROR, f"set_memory_pool_limit: {pool} cannot be limited to {pool_size} bytes."
            )
            return
        self._pool_limits[pool] = pool_size

    def get_memory_pool_limit(self, pool: MemoryPoolType) -> int:
        """The limit of a memory pool in bytes; the largest size there is for a device's memory that has none."""
        return self._pool_limits.get(pool, _NO_LIMIT)

    @property
    def num_optimization_profiles(self) -> int:
        """Number of profiles added."""
        return len(self._profiles)

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        """Add a profile and return its index, or -1 (with an error in the log) for a profile that is not valid."""
        if not isinstance(profile, IOptimizationProfile) or not profile:
            self._logger.log(ILogger.ERROR, f"add_optimization_profile: {profile!r} is not a valid profile.")
            return -1
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def set_calibration_profile(self, profile: IOptimizationProfile) -> bool:
        """Log that nothing is calibrated, and return False."""
        self._logger.log(
            ILogger.ERROR,
            "set_calibration_profile: the embedded engine does not calibrate; put quantize and dequantize layers into "
            "the network.",
        )
        return False

    def get_calibration_profile(self) -> IOptimizationProfile | None:
        """Always None."""
        return None

    def create_timing_cache(
        self, serialized_timing_cache: bytes | bytearray | memoryview
    ) -> ITimingCache | None:
        """The cache that the bytes hold, an empty one for no bytes; None, with an error in the log, for others."""
        try:
            return timing_cache_from(bytes(serialized_timing_cache))
        except ValueError as error:
            self._logger.log(ILogger.ERROR, f"create_timing_cache: {error}")
            return None

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        """Attach a timing cache."""
        self._timing_cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        """The timing cache attached, or None."""
        return self._timing_cache
