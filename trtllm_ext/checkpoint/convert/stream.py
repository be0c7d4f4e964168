"""Reading views of mapped weights chunk by chunk, and giving their pages back to the system behind the reader."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from trtllm_ext.checkpoint import safetensors_writer
from trtllm_ext.checkpoint.safetensors_file import aligned
from trtllm_ext.checkpoint.safetensors_writer import split_into_chunks

# Pages read before they are given back: few enough not to show in memory, many enough for the calls not to in time.
RELEASE_BYTES = 32 << 20
# A transposed matrix is put together in blocks of that size. A block reads all of the source: larger ones, fewer times.
BLOCK_BYTES = 32 << 20
# Rows and columns of a tile that is transposed in one step: both its sides stay in the cache, at any item size.
# Measured on 6400 x 6400 matrices: 1.7 GB/s in float32 and 0.9 in 16 bits, against 0.6 and 0.3 without tiles.
TILE = 256

Release = Callable[[], None]


def stream(values: npt.NDArray, release: Release) -> Iterator[npt.NDArray]:
    """The values in row-major order, as flat contiguous chunks of at most CHUNK_BYTES.

    values: a view with any strides. release: gives back the pages that lie under it, called every RELEASE_BYTES and
    at the end. Chunks of a contiguous and aligned view share its memory; others are aligned copies, of BLOCK_BYTES at a
    time at most.
    """
    bits = values.view(f"u{values.dtype.itemsize}")  # numpy copies its own types faster than bfloat16
    touched = 0
    for chunk, extent in _chunks(bits, release):
        yield aligned(chunk).view(values.dtype)
        touched += extent
        if touched >= RELEASE_BYTES:
            release()
            touched = 0
    release()


def _chunks(values: npt.NDArray, release: Release) -> Iterator[tuple[npt.NDArray, int]]:
    """Chunks, each with the number of source bytes from its first to its last element."""
    if values.size == 0:
        return
    row_bytes = values[0].nbytes if values.ndim else values.nbytes
    if values.flags.c_contiguous:
        for chunk in split_into_chunks(values):
            yield chunk, chunk.nbytes
    elif values.ndim == 2 and abs(values.strides[0]) < abs(values.strides[1]):
        yield from _transposed_chunks(values, release)
    elif values.ndim > 1 and (row_bytes > safetensors_writer.CHUNK_BYTES or _worth_a_turn(values)):
        for row in values:
            yield from _chunks(row, release)
    else:
        step = max(1, safetensors_writer.CHUNK_BYTES // row_bytes)
        for begin in range(0, len(values), step):
            block = values[begin : begin + step]
            yield np.ascontiguousarray(block).reshape(-1), _extent(block)


def _worth_a_turn(values: npt.NDArray) -> bool:
    """Whether the matrices of a stack are large enough to be read one by one, in the way that suits them."""
    return values.ndim > 2 and values[0].nbytes > safetensors_writer.CHUNK_BYTES // 16


def _transposed_chunks(values: npt.NDArray, release: Release) -> Iterator[tuple[npt.NDArray, int]]:
    num_rows, num_columns = values.shape
    step = max(1, BLOCK_BYTES // (num_columns * values.itemsize))
    for begin in range(0, num_rows, step):
        block = _transposed_block(values[begin : begin + step], release)
        for chunk in split_into_chunks(block):
            yield chunk, 0
        del block  # before the next one is made


def _transposed_block(values: npt.NDArray, release: Release) -> npt.NDArray:
    block: npt.NDArray = np.empty(values.shape, values.dtype)
    touched = 0
    for left in range(0, values.shape[1], TILE):
        columns = values[:, left : left + TILE]  # rows of the source, near each other in memory
        for top in range(0, values.shape[0], TILE):
            block[top : top + TILE, left : left + TILE] = columns[top : top + TILE]
        touched += _extent(columns)
        if touched >= RELEASE_BYTES:
            release()
            touched = 0
    release()
    return block


def _extent(values: npt.NDArray) -> int:
    """Bytes from the first element to the end of the last one in memory."""
    steps = zip(values.shape, values.strides, strict=True)
    return values.itemsize + sum((size - 1) * abs(stride) for size, stride in steps)


class ReleaseLater:
    """Puts each release off until the next is asked for.

    Whoever takes a chunk may still be reading it when he asks for the next one, and so would bring the pages back.
    """

    def __init__(self) -> None:
        self._waiting: Release | None = None

    def __call__(self, release: Release) -> None:
        self.flush()
        self._waiting = release

    def flush(self) -> None:
        if self._waiting is not None:
            self._waiting()
        self._waiting = None
