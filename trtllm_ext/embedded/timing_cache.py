"""Timing caches: what the parts of networks took to be prepared, from build to build.

TensorRT keeps the tactics that it has timed. The embedded engine chooses among none; an entry of its caches is one
ONNX segment, by the digest of its model, with the time that ONNX Runtime took to prepare it at the build.
"""

from __future__ import annotations

import math
import re
import struct
from typing import ClassVar

from trtllm_ext.embedded.host_memory import IHostMemory, host_memory_from

_MAGIC = b"TRTXTIMING2\n"
_ENTRY = struct.Struct("<16sQf")
_KEY_TEXT = re.compile(r"0[xX]([0-9a-fA-F]{32})")


class TimingCacheKey:
    """Key of an entry: 16 bytes. Made by `parse()` and `ITimingCache.queryKeys()`."""

    __slots__ = ("_data",)
    _data: bytes

    def __init__(self) -> None:
        raise TypeError("TimingCacheKey: No constructor defined! Use TimingCacheKey.parse().")

    @classmethod
    def _of(cls, data: bytes) -> TimingCacheKey:
        key = object.__new__(cls)
        key._data = data
        return key

    @staticmethod
    def parse(text: str) -> TimingCacheKey:
        """The key that `0x` and 32 hexadecimal digits stand for. Raises ValueError for any other text."""
        match = _KEY_TEXT.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not a key; a key is 0x followed by 32 hexadecimal digits.")
        return TimingCacheKey._of(bytes.fromhex(match[1]))

    def __str__(self) -> str:
        return f"0x{self._data.hex()}"


class TimingCacheValue:
    """Value of an entry: hash of a tactic, and its time in milliseconds."""

    __slots__ = ("tacticHash", "timingMSec")
    # What an entry that is not there has.
    _INVALID_HASH: ClassVar[int] = 2**64 - 1

    def __init__(self, arg0: int, arg1: float) -> None:
        if not 0 <= arg0 < 2**64:
            raise TypeError(f"a tactic hash is an unsigned integer of 64 bits, not {arg0!r}")
        self.tacticHash = int(arg0)
        self.timingMSec = float(arg1)

    def _is_valid(self) -> bool:
        return self.tacticHash != self._INVALID_HASH and self.timingMSec >= 0


class ITimingCache:
    """Entries that survive serialization. Made by `IBuilderConfig.create_timing_cache()`."""

    __slots__ = ("__weakref__", "_entries")

    def __init__(self, entries: dict[bytes, tuple[int, float]]) -> None:
        self._entries = entries

    def serialize(self) -> IHostMemory:
        """The cache as bytes that `create_timing_cache()` takes."""
        packed = [_ENTRY.pack(key, *value) for key, value in sorted(self._entries.items())]
        return host_memory_from(_MAGIC + b"".join(packed))

    def combine(self, input_cache: ITimingCache, ignore_mismatch: bool) -> bool:
        """Add the entries of `input_cache` that this one lacks. Always possible: there is one kind of device."""
        self._entries = input_cache._entries | self._entries
        return True

    def reset(self) -> bool:
        """Forget everything."""
        self._entries.clear()
        return True

    def queryKeys(self) -> list[TimingCacheKey]:  # noqa: N802
        """The keys of all entries."""
        return [TimingCacheKey._of(key) for key in sorted(self._entries)]

    def query(self, key: TimingCacheKey) -> TimingCacheValue:
        """The value of an entry; if there is none, one with an invalid hash and NaN as time."""
        found = self._entries.get(key._data, (TimingCacheValue._INVALID_HASH, math.nan))
        return TimingCacheValue(*found)

    def update(self, key: TimingCacheKey, value: TimingCacheValue) -> bool:
        """Give an entry another value; NaN as time removes it. False if there is no entry or `value` is not valid."""
        if key._data not in self._entries:
            return False
        if math.isnan(value.timingMSec):
            del self._entries[key._data]
            return True
        if not value._is_valid():
            return False
        self._entries[key._data] = (value.tacticHash, value.timingMSec)
        return True

    def _record(self, key: bytes, milliseconds: float) -> None:
        """Add an entry that the build has made, unless there is one."""
        self._entries.setdefault(key, (0, milliseconds))


def timing_cache_from(serialized: bytes) -> ITimingCache:
    """The cache that `serialized` holds; an empty one for no bytes.

    Raises ValueError for bytes that are no timing cache of the embedded engine.
    """
    if not serialized:
        return ITimingCache({})
    packed = serialized[len(_MAGIC) :]
    if not serialized.startswith(_MAGIC) or len(packed) % _ENTRY.size:
        raise ValueError("these bytes are no timing cache of the embedded engine.")
    return ITimingCache({key: (tactic, time) for key, tactic, time in _ENTRY.iter_unpack(packed)})
