"""Timing caches: kept and handed back. The embedded engine times no kernels, so they hold nothing of its own."""

from trtllm_ext.embedded.host_memory import IHostMemory, host_memory_from

_MAGIC = b"TRTXTIMING1\n"


class ITimingCache:
    """A timing cache that survives serialization unchanged. Made by `IBuilderConfig.create_timing_cache()`."""

    def __init__(self, contents: bytes) -> None:
        self._entries = [contents] if contents else []

    def serialize(self) -> IHostMemory:
        """The cache as bytes that `create_timing_cache()` takes."""
        return host_memory_from(_MAGIC + b"".join(self._entries))

    def combine(self, input_cache: "ITimingCache", ignore_mismatch: bool) -> bool:
        """Add what `input_cache` holds and this one lacks. Always possible."""
        self._entries.extend(entry for entry in input_cache._entries if entry not in self._entries)
        return True

    def reset(self) -> bool:
        """Forget everything."""
        self._entries.clear()
        return True


def timing_cache_from(serialized: bytes) -> ITimingCache:
    """The cache that `serialized` holds; an empty one for no bytes.

    Raises ValueError for bytes that are no timing cache of the embedded engine.
    """
    if serialized and not serialized.startswith(_MAGIC):
        raise ValueError("these bytes are no timing cache of the embedded engine.")
    return ITimingCache(serialized[len(_MAGIC) :])
