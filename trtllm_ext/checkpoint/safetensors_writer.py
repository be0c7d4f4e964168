"""Writing a safetensors file piece by piece, so that no tensor has to be in memory as a whole."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Mapping
from concurrent.futures import Executor, Future, wait
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trtllm_ext.checkpoint.safetensors_file import NUMPY_DTYPES
from trtllm_ext.errors import CheckpointError
from trtllm_ext.runtime.writeback import start_writeback

# Large enough for full speed of disks and checksums, small enough for caches and for memory not to show it.
CHUNK_BYTES = 4 << 20
# What the disk is asked to write at once, while more is made: it is the slowest, and begins with the first of them.
WRITEBACK_BYTES = 16 << 20
CHECKSUMS = "crc32"  # the metadata key: one crc32 a tensor in hexadecimal, in the order of the data

_CODES = {dtype.name: code for code, dtype in NUMPY_DTYPES.items()}


def checksum_seed(name: str, dtype: np.dtype, shape: tuple[int, ...]) -> int:
    """Where a tensor's checksum starts, so that it covers name, type and shape beside the data."""
    return zlib.crc32(f"{name} {dtype.name} {list(shape)}".encode())


class SafetensorsWriter:
    """Writes tensors into a file, one after the other, from pieces of any size.

    shapes: every tensor's shape by name, in the order of their data. dtype: of all, or of each by name.
    metadata: the header's own strings; `finish` may replace them by others of the same length.
    disk: has the disk write what the file has so far. writeback_bytes: how much at once.
    Raises OSError from the file system.
    """

    def __init__(
        self,
        path: Path,
        shapes: Mapping[str, tuple[int, ...]],
        dtype: np.dtype | Mapping[str, np.dtype],
        metadata: Mapping[str, str],
        *,
        disk: Executor,
        writeback_bytes: int = WRITEBACK_BYTES,
    ) -> None:
        self.path = path
        self._shapes = dict(shapes)
        self._dtypes = dtype if isinstance(dtype, Mapping) else dict.fromkeys(shapes, dtype)
        self._disk, self._writeback_bytes = disk, writeback_bytes
        self._writeback: Future[None] | None = None
        header = self._header(metadata)
        self._header_bytes = self._end = len(header)
        self._sent_to_disk = 0
        self._file = path.open("wb")
        try:
            self._file.write(header)
        except BaseException:
            self._file.close()
            raise

    def _header(self, metadata: Mapping[str, str]) -> bytes:
        header: dict[str, object] = {"__metadata__": dict(metadata)}
        offset = 0
        for name, shape in self._shapes.items():
            dtype = self._dtypes[name]
            end = offset + math.prod(shape) * dtype.itemsize
            header[name] = {"dtype": _CODES[dtype.name], "shape": shape, "data_offsets": [offset, end]}
            offset = end
        text = json.dumps(header, separators=(",", ":")).encode()
        # Data from a multiple of 64 bytes on: a mapped tensor is then aligned for every element type.
        text += b" " * (-(len(text) + 8) % 64)
        return len(text).to_bytes(8, "little") + text

    def feed(self, values: npt.NDArray) -> None:
        """Write what comes next: contiguous values of the file's type, or integers that hold their bits."""
        self._file.write(values.view(np.uint8).data)
        self._end += values.nbytes
        busy = self._writeback is not None and not self._writeback.done()
        if self._end - self._sent_to_disk >= self._writeback_bytes and not busy:
            begin, self._sent_to_disk = self._sent_to_disk, self._end
            self._writeback = self._disk.submit(
                start_writeback, self._file.fileno(), begin, self._end - begin
            )

    def finish(self, metadata: Mapping[str, str]) -> int:
        """Write the header again, in its place, with this metadata; returns the size of the file in bytes.

        Raises CheckpointError when the file lacks data, or has more than was announced.
        """
        header = self._header(metadata)
        size = sum(math.prod(shape) * self._dtypes[name].itemsize for name, shape in self._shapes.items())
        if len(header) != self._header_bytes or self._end != len(header) + size:
            raise CheckpointError(
                f"{self.path} has {self._end - self._header_bytes} bytes of data behind a header of "
                f"{self._header_bytes}; announced were {size} behind {len(header)}."
            )
        self._file.seek(0)
        self._file.write(header)
        self._file.flush()
        return self._end

    def close(self) -> None:
        """Close the file, whatever became of it; `disk` is done with it by then."""
        if self._writeback is not None:
            wait([self._writeback])
        self._file.close()


def split_into_chunks(values: npt.NDArray) -> Iterable[npt.NDArray]:
    """A C-contiguous array as flat pieces of at most CHUNK_BYTES, without copies."""
    flat = values.reshape(-1)
    step = max(1, CHUNK_BYTES // values.dtype.itemsize)
    return (flat[begin : begin + step] for begin in range(0, flat.size, step))
