"""The builder: where networks come from, and where they become serialized engines."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from trtllm_ext.embedded.assembly import ASSEMBLY_STEPS, Parts, assemble
from trtllm_ext.embedded.brief import brief
from trtllm_ext.embedded.config import IBuilderConfig
from trtllm_ext.embedded.enums import BuilderFlag
from trtllm_ext.embedded.host_memory import IHostMemory, host_memory_of, temporary_file
from trtllm_ext.embedded.logger import ILogger
from trtllm_ext.embedded.network import INetworkDefinition
from trtllm_ext.embedded.plan import write_plan
from trtllm_ext.embedded.plugins.making import without_creator
from trtllm_ext.embedded.plugins.registry import IPluginRegistry, get_plugin_registry
from trtllm_ext.embedded.profile import IOptimizationProfile
from trtllm_ext.embedded.progress import Progress
from trtllm_ext.embedded.running.engine import ICudaEngine
from trtllm_ext.embedded.running.output_allocator import IStreamWriter
from trtllm_ext.embedded.running.runtime import Runtime
from trtllm_ext.embedded.surface.lifetime import Lifetime
from trtllm_ext.embedded.surface.recorded import Recorded
from trtllm_ext.embedded.unsupported import Unsupported
from trtllm_ext.errors import BuildError, TrtllmExtError

# In a strongly typed network the types are the network's; TensorRT refuses these there.
_PRECISIONS = (
    BuilderFlag.FP16,
    BuilderFlag.BF16,
    BuilderFlag.INT8,
    BuilderFlag.FP8,
    BuilderFlag.INT4,
    BuilderFlag.FP4,
)


class Builder(Recorded, Lifetime):
    """Makes networks, configs and profiles, and builds engines.

    A build that fails logs why, naming the layer or tensor, and returns None (False for a stream).
    """

    __slots__ = ("__weakref__", "_plugin_registry", "max_threads")
    gpu_allocator = Unsupported()

    def __init__(self, logger: ILogger) -> None:
        self._report_to(logger)
        self._plugin_registry = IPluginRegistry._make(get_plugin_registry())
        self.max_threads = 1

    @property
    def logger(self) -> ILogger:
        """The logger given at creation."""
        return self._logger

    @property
    def platform_has_fast_fp16(self) -> bool:
        """Always False: float16 is computed in float32 and rounded."""
        return False

    @property
    def platform_has_fast_int8(self) -> bool:
        """Always False."""
        return False

    @property
    def platform_has_tf32(self) -> bool:
        """Always False."""
        return False

    @property
    def num_DLA_cores(self) -> int:  # noqa: N802
        """Always 0."""
        return 0

    @property
    def max_DLA_batch_size(self) -> int:  # noqa: N802
        """Always 0."""
        return 0

    def get_plugin_registry(self) -> IPluginRegistry:
        """The registry of this builder, below that of the process."""
        return self._plugin_registry

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        """An empty network; `flags` are bits of NetworkDefinitionCreationFlag."""
        network = INetworkDefinition(self._logger, flags)
        network._builder = self
        return network

    def create_builder_config(self) -> IBuilderConfig:
        """A config with TensorRT's defaults."""
        return IBuilderConfig(self._logger)

    def create_optimization_profile(self) -> IOptimizationProfile:
        """An empty profile."""
        return IOptimizationProfile()

    def reset(self) -> None:
        """Back to the defaults."""
        self.max_threads = 1

    def is_network_supported(self, network: INetworkDefinition, config: IBuilderConfig) -> bool:
        """Whether the network can be built; the log says why not."""
        return self._build("is_network_supported", network, config, None)

    def build_serialized_network(
        self, network: INetworkDefinition, config: IBuilderConfig, kernel_text: Any = None
    ) -> IHostMemory | None:
        """Build an engine and return it serialized; no kernels are compiled, so `kernel_text` stays as it is.

        The memory is that of a nameless temporary file: weights are never all in memory at once.
        """
        written: list[IHostMemory] = []

        def write(parts: Parts) -> None:
            with _writing(" to a temporary file"), temporary_file() as file:
                write_plan(file.write, parts.header, parts.segments, parts.weights)
                written.append(host_memory_of(file))

        is_built = self._build("build_serialized_network", network, config, write)
        return written[0] if is_built else None

    def build_serialized_network_to_stream(
        self, network: INetworkDefinition, config: IBuilderConfig, writer: IStreamWriter
    ) -> bool:
        """Build an engine and hand it to `writer` piece by piece; returns whether all of it was taken."""

        def sink(data: memoryview) -> None:
            try:
                taken = writer.write(data)
            except Exception as error:  # the application's code may raise anything
                raise BuildError(f"the stream writer failed: {brief(error)}") from error
            if taken != len(data):
                raise OSError(f"the stream writer took {taken} of {len(data)} bytes")

        def write(parts: Parts) -> None:
            with _writing():
                write_plan(sink, parts.header, parts.segments, parts.weights)

        return self._build("build_serialized_network_to_stream", network, config, write)

    def build_engine_with_config(
        self, network: INetworkDefinition, config: IBuilderConfig
    ) -> ICudaEngine | None:
        """Build an engine, ready to be run."""
        serialized = self.build_serialized_network(network, config)
        runtime = Runtime(self._logger)
        runtime._plugin_registry = self._plugin_registry
        return None if serialized is None else runtime.deserialize_cuda_engine(serialized)

    def _build(
        self,
        method: str,
        network: INetworkDefinition,
        config: IBuilderConfig,
        write: Callable[[Parts], None] | None,
    ) -> bool:
        """Build an engine and write it; without `write` only see whether it can be built. The log says why not."""
        progress = Progress(config.progress_monitor)
        try:
            self._check_flags(network, config)
            with progress.phase("Building engine", ASSEMBLY_STEPS + (write is not None)):
                parts = assemble(network, config, progress)
                for missing in without_creator(parts.header.plugins, self._plugin_registry):
                    self._logger.log(
                        ILogger.WARNING, f"{method}: the engine cannot be loaded without {missing}."
                    )
                if write is not None:
                    write(parts)
                    progress.step()
        except TrtllmExtError as error:
            for line in str(error).splitlines():
                self._error(method, line)
            return False
        except MemoryError:
            self._error(method, "there is not enough memory to build the network.")
            return False
        except (TypeError, ValueError, OverflowError, OSError) as error:
            # A number or a text that no plan, no model or no array can hold.
            self._error(method, f"the network has a value that cannot be built: {brief(error)}")
            return False
        cache = config.get_timing_cache()
        if cache is not None and not config.get_flag(BuilderFlag.DISABLE_TIMING_CACHE):
            for digest, milliseconds in parts.timings.items():
                cache._record(digest, milliseconds)
        return True

    def _check_flags(self, network: INetworkDefinition, config: IBuilderConfig) -> None:
        if network._graph.strongly_typed:
            for flag in _PRECISIONS:
                if config.get_flag(flag):
                    raise BuildError(
                        f"flag {flag.name} cannot be set for a strongly typed network, whose types are its own; "
                        "clear the flag, or create the network without STRONGLY_TYPED."
                    )

    def _error(self, method: str, reason: str) -> None:
        self._report(f"{method}: {reason}")


@contextmanager
def _writing(where: str = "") -> Iterator[None]:
    try:
        yield
    except (OSError, BuildError, UnicodeEncodeError) as error:
        raise BuildError(f"the engine cannot be written{where}: {error}") from error
