"""The part of IExecutionContext that hands over streams and device memory, which the embedded engine does not need."""

from collections.abc import Sequence

from trtllm_ext.embedded.enums import ProfilingVerbosity
from trtllm_ext.embedded.running.settings import IRuntimeConfig
from trtllm_ext.embedded.surface.recorded import Recorded


class ContextSettings(Recorded):
    """Settings that are kept and have no effect, beside questions about memory that is never needed."""

    __slots__ = (
        "_aux_streams",
        "_input_consumed_event",
        "_runtime_config",
        "debug_sync",
        "name",
        "nvtx_verbosity",
        "persistent_cache_limit",
    )
    _runtime_config: IRuntimeConfig
    _aux_streams: tuple[int, ...]
    _input_consumed_event: int
    name: str
    debug_sync: bool
    nvtx_verbosity: ProfilingVerbosity
    persistent_cache_limit: int

    def _set_defaults(self, runtime_config: IRuntimeConfig) -> None:
        self._runtime_config = runtime_config
        self._aux_streams = ()
        self._input_consumed_event = 0
        self.name = ""
        self.debug_sync = False
        self.nvtx_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
        self.persistent_cache_limit = 0

    def get_runtime_config(self) -> IRuntimeConfig:
        """The config that the context was made with."""
        return self._runtime_config

    def set_aux_streams(self, aux_streams: Sequence[int]) -> None:
        """Keep streams; runs are synchronous and use none."""
        self._aux_streams = tuple(int(stream) for stream in aux_streams)

    def set_input_consumed_event(self, event: int) -> bool:
        """Keep an event; inputs are consumed when a run returns, so nothing waits for it."""
        self._input_consumed_event = event
        return True

    def get_input_consumed_event(self) -> int:
        """The event kept, 0 if none is."""
        return self._input_consumed_event

    def set_device_memory(self, memory: int, size: int) -> None:
        """Take no notice of memory for a run: it comes from an arena of the process."""

    def update_device_memory_size_for_shapes(self) -> int:
        """Bytes wanted from the user for a run at the current shapes: 0."""
        return 0

    def _ignore_device_memory(self, memory: int) -> None:
        self.set_device_memory(memory, 0)

    device_memory = property(None, _ignore_device_memory, doc="Can be set, to no effect, and not be read.")
