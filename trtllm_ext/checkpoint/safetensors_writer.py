"""Writing a safetensors file tensor by tensor, so that no tensor has to be in memory as a whole."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from trtllm_ext.errors import CheckpointError
from trtllm_ext.runtime.writeback import start_writeback

# Large enough for full speed of disks and checksums, small enough for caches and for memory not to show it.
CHUNK_BYTES = 4 << 20
# What the disk is asked to write at once, while more is made: it is the slowest, and begins with the first of them.
WRITEBACK_BYTES = 16 << 20
CHECKSUMS = "crc32"  # the metadata key: one crc32 a tensor in hexadecimal, in the order of the data

_CODES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def checksum_seed(name: str, dtype: np.dtype, shape: tuple[int, ...]) -> int:
    """Where a tensor's checksum starts, so that it covers name, type and shape beside the data."""
    return zlib.crc32(f"{name} {dtype.name} {list(shape)}".encode())


class SafetensorsWriter:
    """Writes tensors of one type in a given order, and their checksums.

    Two threads of its own compute the checksums and have the disk write what the file has so far.

    shapes: every tensor's shape by name, in the order in which `write` will be called.
    Use as a context manager; leaving it without an error finishes the file. Raises OSError from the file
    system and CheckpointError when the data does not fit what was announced.
    """

    def __init__(self, path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: np.dtype) -> None:
        self._dtype = dtype
        self._shapes = dict(shapes)
        self._waiting = list(shapes)[::-1]
        self._checksums: list[Future[int]] = []
        self._checker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checksum")
        self._disk = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writeback")
        self._writeback: Future[None] | None = None
        self._sent_to_disk = 0
        self._file = path.open("wb")
        try:
            self._file.write(self._header())
        except BaseException:
            self._file.close()
            raise

    def _header(self) -> bytes:
        # Checksums have a fixed width, so the header is written again in place at the end.
        sums = [f"{value.result():08x}" for value in self._checksums] or ["00000000"] * len(self._shapes)
        header: dict[str, object] = {"__metadata__": {"format": "np", CHECKSUMS: " ".join(sums)}}
        offset = 0
        for name, shape in self._shapes.items():
            end = offset + math.prod(shape) * self._dtype.itemsize
            header[name] = {"dtype": _CODES[self._dtype.name], "shape": shape, "data_offsets": [offset, end]}
            offset = end
        text = json.dumps(header, separators=(",", ":")).encode()
        # Data from a multiple of 64 bytes on: a mapped tensor is then aligned for every element type.
        text += b" " * (-(len(text) + 8) % 64)
        return len(text).to_bytes(8, "little") + text

    def write(self, name: str, chunks: Iterable[npt.NDArray]) -> None:
        """Write the next tensor from pieces in row-major order, each of the file's type.

        A piece may still be read while the next one is asked for, not any more when the one after that is; so it must
        not be overwritten with the next one's values.
        """
        if not self._waiting or self._waiting.pop() != name:
            raise CheckpointError(f"{name} is written out of the announced order.")
        shape = self._shapes[name]
        left = math.prod(shape)
        checksum = self._checker.submit(zlib.crc32, b"", checksum_seed(name, self._dtype, shape))
        for chunk in chunks:
            left -= chunk.size
            if chunk.dtype != self._dtype or left < 0:
                raise CheckpointError(
                    f"{name} gives {chunk.dtype.name} values beyond {self._dtype.name} {shape}."
                )
            data = np.ascontiguousarray(chunk).reshape(-1).view(np.uint8).data
            checksum = self._checker.submit(zlib.crc32, data, checksum.result())
            self._file.write(data)
            self._send_to_disk()
        if left:
            raise CheckpointError(f"{name} ends {left} values before its shape {shape} is full.")
        self._checksums.append(checksum)

    def _send_to_disk(self) -> None:
        end = self._file.tell()
        busy = self._writeback is not None and not self._writeback.done()
        if end - self._sent_to_disk >= WRITEBACK_BYTES and not busy:
            begin, self._sent_to_disk = self._sent_to_disk, end
            self._writeback = self._disk.submit(start_writeback, self._file.fileno(), begin, end - begin)

    def __enter__(self) -> SafetensorsWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                if self._waiting:
                    raise CheckpointError(
                        f"{self._waiting[-1]} and {len(self._waiting) - 1} more are not written."
                    )
                self._file.seek(0)
                self._file.write(self._header())
        finally:
            self._checker.shutdown()
            self._disk.shutdown()
            self._file.close()


def split_into_chunks(values: npt.NDArray) -> Iterable[npt.NDArray]:
    """A C-contiguous array as flat pieces of at most CHUNK_BYTES, without copies."""
    flat = values.reshape(-1)
    step = max(1, CHUNK_BYTES // values.dtype.itemsize)
    return (flat[begin : begin + step] for begin in range(0, flat.size, step))
