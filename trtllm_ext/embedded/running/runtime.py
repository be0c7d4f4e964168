"""Runtimes: serialized engines become engines again."""

from typing import Any, get_args

from trtllm_ext.embedded.logger import ILogger
from trtllm_ext.embedded.running.engine import ICudaEngine
from trtllm_ext.embedded.running.loading import load_plan
from trtllm_ext.embedded.running.sessions import LoadMode
from trtllm_ext.embedded.surface.lifetime import Lifetime
from trtllm_ext.embedded.unsupported import Unsupported
from trtllm_ext.errors import ConfigError, EngineError


class Runtime(Lifetime):
    """Deserializes engines.

    `load_mode` is ours: `prepack` (the default) packs weights for the fastest runs and takes as much memory again;
    `mapped` uses weights where they lie, so an engine in a mapped file loads at once and processes share its memory,
    and runs are slower. It counts for engines deserialized after it is set.

    Runs of a prepacked engine do not read the file it came from; those of a mapped one do, as `serialize()` does in
    both modes. So replace the file of an engine in use by renaming another one over it, never write into it.
    """

    __slots__ = (
        "__weakref__",
        "_load_mode",
        "_logger",
        "engine_host_code_allowed",
        "max_threads",
        "temporary_directory",
    )
    error_recorder = Unsupported()
    gpu_allocator = Unsupported()

    def __init__(self, logger: ILogger) -> None:
        self._logger = logger
        self._load_mode: LoadMode = "prepack"
        self.max_threads = 1
        self.temporary_directory: str | None = None
        self.engine_host_code_allowed = False

    @property
    def logger(self) -> ILogger:
        """The logger given at creation."""
        return self._logger

    @property
    def load_mode(self) -> LoadMode:
        """`prepack` or `mapped`. Setting anything else raises ConfigError."""
        return self._load_mode

    @load_mode.setter
    def load_mode(self, mode: LoadMode) -> None:
        if mode not in get_args(LoadMode):
            raise ConfigError(f"load_mode={mode!r} is not known. Set it to 'prepack' or 'mapped'.")
        self._load_mode = mode

    def deserialize_cuda_engine(self, serialized_engine: Any) -> ICudaEngine | None:
        """The engine in `serialized_engine`, anything with the buffer protocol.

        A mapped file or read-only memory is used where it is and must not change while the engine lives (see the
        class for files); other memory is copied. Every byte is checked. None, with the reason in the log, if the
        engine is damaged, foreign, or of another version, or if its memory cannot be read.
        """
        try:
            return ICudaEngine(load_plan(serialized_engine, self._load_mode), self._logger)
        except (EngineError, ConfigError, OSError) as error:
            self._logger.log(ILogger.ERROR, f"deserialize_cuda_engine: {error}")
        except MemoryError:
            self._logger.log(
                ILogger.ERROR, "deserialize_cuda_engine: there is not enough memory for the engine."
            )
        return None
