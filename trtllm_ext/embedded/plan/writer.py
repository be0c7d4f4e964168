"""Writing a plan in one pass: the weights go from where they are to the sink piece by piece, checksums on the way."""

import hashlib
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from trtllm_ext.embedded.plan.header import Header
from trtllm_ext.embedded.plan.layout import CHUNK_BYTES, MAX_HEADER_BYTES, Layout
from trtllm_ext.errors import BuildError

# Takes the next bytes of the plan; raises if it cannot.
Sink = Callable[[memoryview], object]


def write_plan(
    sink: Sink,
    header: Header,
    segments: Sequence[bytes],
    weights: Sequence[np.ndarray[tuple[int], np.dtype[np.uint8]]],
) -> int:
    """Write a plan and return its size in bytes.

    header: with its tables of segments and weights filled in.
    segments: serialized ONNX models, as in `header.segments`.
    weights: 1-D byte views, as in `header.weights`; read once, 4 MiB at a time, never copied as a whole.
    Raises BuildError if tables and data do not fit, and whatever the sink raises.
    """
    text = header.to_json()
    if len(text) > MAX_HEADER_BYTES:
        raise BuildError(
            f"the description of the engine takes {len(text)} bytes, more than {MAX_HEADER_BYTES}."
        )
    last = header.weights[-1] if header.weights else None
    layout = Layout(
        header_bytes=len(text),
        segments_bytes=sum(len(segment) for segment in segments),
        weights_bytes=last.offset + last.nbytes if last else 0,
    )
    _check_tables(header, segments, weights)

    prefix = layout.pack()
    sink(memoryview(prefix))
    sink(memoryview(text))
    models = hashlib.sha256()
    padding = bytes(layout.weights_offset - layout.segments_end)
    for part in (*segments, padding):
        models.update(part)
        sink(memoryview(part))

    digest = hashlib.sha256()
    checksums = _Checksums()
    for piece in _weight_pieces(header, weights):
        digest.update(piece)
        checksums.update(piece)
        sink(piece)

    trailer = hashlib.sha256(prefix + text).digest() + models.digest() + digest.digest() + checksums.finish()
    sink(memoryview(trailer + hashlib.sha256(trailer).digest()))
    return layout.file_bytes


def _check_tables(
    header: Header, segments: Sequence[bytes], weights: Sequence[np.ndarray[tuple[int], np.dtype[np.uint8]]]
) -> None:
    if [record.nbytes for record in header.segments] != [len(segment) for segment in segments]:
        raise BuildError("the table of segments does not match the segments.")
    if [record.nbytes for record in header.weights] != [block.nbytes for block in weights]:
        raise BuildError("the table of weights does not match the weights.")


def _weight_pieces(
    header: Header, weights: Sequence[np.ndarray[tuple[int], np.dtype[np.uint8]]]
) -> Iterator[memoryview]:
    end = 0
    for record, block in zip(header.weights, weights, strict=True):
        if record.offset > end:
            yield memoryview(bytes(record.offset - end))
        view = block.data
        for start in range(0, len(view), CHUNK_BYTES):
            yield view[start : start + CHUNK_BYTES]
        end = record.offset + record.nbytes


class _Checksums:
    """crc32 of every CHUNK_BYTES of a stream that comes in pieces of at most that size."""

    def __init__(self) -> None:
        self._finished: list[int] = []
        self._crc = 0
        self._filled = 0

    def update(self, piece: memoryview) -> None:
        head = piece[: CHUNK_BYTES - self._filled]
        self._crc = zlib.crc32(head, self._crc)
        self._filled += len(head)
        if self._filled == CHUNK_BYTES:
            self._finished.append(self._crc)
            tail = piece[len(head) :]
            self._crc, self._filled = zlib.crc32(tail), len(tail)

    def finish(self) -> bytes:
        if self._filled:
            self._finished.append(self._crc)
        return struct.pack(f"<{len(self._finished)}I", *self._finished)
