"""Where things lie in a plan: the fixed-size prefix, alignment, and the length of the trailer."""

import hashlib
import struct
import zlib
from dataclasses import dataclass

from trtllm_ext.errors import EngineError

MAGIC = b"TRTXPLAN"
FORMAT_VERSION = 3
PREFIX_BYTES = 64
WEIGHT_ALIGNMENT = 64
PAGE_BYTES = 4096
# Large enough that zlib leaves the interpreter lock alone for a while, small enough to share among threads.
CHUNK_BYTES = 4 << 20
# A header this long would hold millions of layers: anything above it is damage, not a network.
MAX_HEADER_BYTES = 256 << 20
DIGEST_BYTES = hashlib.sha256().digest_size

_PREFIX = struct.Struct("<8sII5Q")
_PREFIX_CRC = struct.Struct("<I4x")


def align(offset: int, alignment: int) -> int:
    """The first multiple of `alignment` that is not below `offset`."""
    return -(-offset // alignment) * alignment


def num_chunks(weights_bytes: int) -> int:
    """Number of checksums over `weights_bytes` bytes of weights."""
    return -(-weights_bytes // CHUNK_BYTES)


def trailer_bytes(weights_bytes: int) -> int:
    """Length of the trailer behind `weights_bytes` bytes of weights."""
    return 4 * DIGEST_BYTES + 4 * num_chunks(weights_bytes)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Lengths of the parts of a plan, in bytes; everything else follows from them."""

    header_bytes: int
    segments_bytes: int
    weights_bytes: int

    @property
    def segments_offset(self) -> int:
        """Where the first segment starts."""
        return PREFIX_BYTES + self.header_bytes

    @property
    def segments_end(self) -> int:
        """The byte behind the last segment."""
        return self.segments_offset + self.segments_bytes

    @property
    def weights_offset(self) -> int:
        """Where the weights start: a page border."""
        return align(self.segments_end, PAGE_BYTES)

    @property
    def trailer_offset(self) -> int:
        """Where the trailer starts."""
        return self.weights_offset + self.weights_bytes

    @property
    def file_bytes(self) -> int:
        """Size of the whole plan."""
        return self.trailer_offset + trailer_bytes(self.weights_bytes)

    def pack(self) -> bytes:
        """The prefix."""
        head = _PREFIX.pack(
            MAGIC,
            FORMAT_VERSION,
            PREFIX_BYTES,
            self.header_bytes,
            self.segments_bytes,
            self.weights_offset,
            self.weights_bytes,
            self.file_bytes,
        )
        return head + _PREFIX_CRC.pack(zlib.crc32(head))

    @classmethod
    def unpack(cls, buffer: memoryview) -> "Layout":
        """Read and check the prefix of `buffer`, a whole plan.

        Raises EngineError when it is no plan, of another format version, damaged, truncated, or followed by
        something else.
        """
        if not len(buffer):
            raise EngineError("the engine is empty (0 bytes). Build it again.")
        start = bytes(buffer[: len(MAGIC)])
        if start != MAGIC[: len(start)]:
            raise EngineError(
                f"this is not an engine of the embedded kind: it starts with {start!r} instead of {MAGIC!r}. "
                "An engine that TensorRT built needs TensorRT to run."
            )
        if len(buffer) < PREFIX_BYTES:
            raise EngineError(
                f"the engine is truncated: {len(buffer)} bytes are less than its fixed start of {PREFIX_BYTES}."
            )
        _, version, prefix_bytes, header, segments, weights_offset, weights, file_bytes = _PREFIX.unpack_from(
            buffer
        )
        if version != FORMAT_VERSION:
            raise EngineError(
                f"the engine has plan format {version}, this version of trtllm_ext reads format {FORMAT_VERSION}. "
                "Build the engine again with this version."
            )
        if bytes(buffer[_PREFIX.size : PREFIX_BYTES]) != _PREFIX_CRC.pack(zlib.crc32(buffer[: _PREFIX.size])):
            raise EngineError(
                f"the engine is damaged: the checksum of its first {PREFIX_BYTES} bytes is wrong."
            )
        layout = cls(header_bytes=header, segments_bytes=segments, weights_bytes=weights)
        if (
            prefix_bytes != PREFIX_BYTES
            or weights_offset != layout.weights_offset
            or file_bytes != layout.file_bytes
            or header > MAX_HEADER_BYTES
        ):
            raise EngineError("the engine is damaged: the lengths in its first bytes contradict each other.")
        if len(buffer) < file_bytes:
            raise EngineError(f"the engine is truncated: {len(buffer)} of {file_bytes} bytes are there.")
        if len(buffer) > file_bytes:
            raise EngineError(
                f"the engine is {file_bytes} bytes long, but {len(buffer) - file_bytes} more bytes follow it."
            )
        return layout
