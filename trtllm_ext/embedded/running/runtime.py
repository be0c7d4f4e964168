"""Runtimes: serialized engines become engines again."""

from typing import Any, get_args

from trtllm_ext.embedded.enums import TempfileControlFlag
from trtllm_ext.embedded.logger import ILogger
from trtllm_ext.embedded.plugins.registry import IPluginRegistry, get_plugin_registry
from trtllm_ext.embedded.running.engine import ICudaEngine
from trtllm_ext.embedded.running.loading import load_plan
from trtllm_ext.embedded.running.sessions import LoadMode
from trtllm_ext.embedded.running.stream_reading import read_stream
from trtllm_ext.embedded.running.threads import ThreadPool
from trtllm_ext.embedded.surface.interfaces import IStreamReader, IStreamReaderV2
from trtllm_ext.embedded.surface.lifetime import Lifetime
from trtllm_ext.embedded.surface.recorded import Recorded
from trtllm_ext.embedded.unsupported import Unsupported
from trtllm_ext.errors import ConfigError, EngineError

_ALL_TEMPORARY_FILES = sum(1 << int(flag) for flag in TempfileControlFlag)


class Runtime(Recorded, Lifetime):
    """Deserializes engines.

    `load_mode` is ours: `prepack` (the default) packs weights for the fastest runs and takes as much memory again;
    `mapped` uses weights where they lie, so an engine in a mapped file loads at once and processes share its memory,
    and runs are slower. `thread_pool` is ours too: `process` runs engines on the one pool that the process has for all
    of them, `none` on the thread that calls; None (the default) leaves it to TRTLLM_EXT_THREAD_POOL. Once the process
    has a pool, ONNX Runtime lets no session do without it. Both count for engines deserialized after they are set.

    Runs of a prepacked engine do not read the file it came from; those of a mapped one do, as `serialize()` does in
    both modes. So replace the file of an engine in use by renaming another one over it, never write into it.
    """

    __slots__ = (
        "DLA_core",
        "__weakref__",
        "_load_mode",
        "_plugin_registry",
        "_thread_pool",
        "engine_host_code_allowed",
        "max_threads",
        "tempfile_control_flags",
        "temporary_directory",
    )
    gpu_allocator = Unsupported()

    def __init__(self, logger: ILogger) -> None:
        self._report_to(logger)
        self._load_mode: LoadMode = "prepack"
        self._thread_pool: ThreadPool | None = None
        self.max_threads = 1
        self._plugin_registry = IPluginRegistry._make(get_plugin_registry())
        self.temporary_directory: str | None = None
        self.engine_host_code_allowed = False
        self.tempfile_control_flags = _ALL_TEMPORARY_FILES
        self.DLA_core = -1

    @property
    def logger(self) -> ILogger:
        """The logger given at creation."""
        return self._logger

    @property
    def num_DLA_cores(self) -> int:  # noqa: N802
        """Always 0."""
        return 0

    def get_plugin_registry(self) -> IPluginRegistry:
        """The registry of this runtime, below that of the process: creators in either serve its engines."""
        return self._plugin_registry

    def load_runtime(self, path: str) -> "Runtime | None":
        """Log that no other runtime can be loaded, and return None: an engine says which version reads it."""
        self._report(
            f"load_runtime: {path!r} cannot be loaded by the embedded engine, which is its own only runtime; run an "
            "engine with the version of trtllm_ext that built it."
        )
        return None

    @property
    def load_mode(self) -> LoadMode:
        """`prepack` or `mapped`. Setting anything else raises ConfigError."""
        return self._load_mode

    @load_mode.setter
    def load_mode(self, mode: LoadMode) -> None:
        if mode not in get_args(LoadMode):
            raise ConfigError(f"load_mode={mode!r} is not known. Set it to 'prepack' or 'mapped'.")
        self._load_mode = mode

    @property
    def thread_pool(self) -> ThreadPool | None:
        """`process`, `none` or None. Setting anything else raises ConfigError."""
        return self._thread_pool

    @thread_pool.setter
    def thread_pool(self, pool: ThreadPool | None) -> None:
        if pool is not None and pool not in get_args(ThreadPool):
            raise ConfigError(f"thread_pool={pool!r} is not known. Set it to 'process', 'none' or None.")
        self._thread_pool = pool

    def deserialize_cuda_engine(
        self,
        serialized_engine: Any = None,
        stream_reader: IStreamReader | None = None,
        stream_reader_v2: IStreamReaderV2 | None = None,
    ) -> ICudaEngine | None:
        """The engine in `serialized_engine`, anything with the buffer protocol, or the one that a reader gives.

        A mapped file or read-only memory is used where it is and must not change while the engine lives (see the
        class for files); other memory is copied. Every byte is checked. None, with the reason in the log, if the
        engine is damaged, foreign, or of another version, or if its memory cannot be read.
        """
        try:
            for reader in (serialized_engine, stream_reader, stream_reader_v2):
                if isinstance(reader, IStreamReader | IStreamReaderV2):
                    serialized_engine = read_stream(reader)
            loaded = load_plan(serialized_engine, self._load_mode, self._plugin_registry, self._thread_pool)
            return ICudaEngine(loaded, self._logger)
        except (EngineError, ConfigError, OSError) as error:
            self._report(f"deserialize_cuda_engine: {error}")
        except MemoryError:
            self._report("deserialize_cuda_engine: there is not enough memory for the engine.")
        return None
