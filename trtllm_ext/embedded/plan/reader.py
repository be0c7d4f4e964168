"""Reading a plan: every check that can be made before anything of it is used."""

import hashlib
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from trtllm_ext.embedded.plan.header import Header
from trtllm_ext.embedded.plan.layout import CHUNK_BYTES, DIGEST_BYTES, PREFIX_BYTES, Layout, num_chunks
from trtllm_ext.errors import EngineError


@dataclass(frozen=True)
class Plan:
    """A plan over the memory it was read from; nothing of it is copied.

    Header and segments are checked when it is read, weights only by `check_weights()`.
    """

    header: Header
    layout: Layout
    buffer: memoryview
    _checksums: tuple[int, ...]
    _weights_digest: bytes

    def segment(self, index: int) -> memoryview:
        """The serialized ONNX model number `index`."""
        record = self.header.segments[index]
        start = self.layout.segments_offset + record.offset
        return self.buffer[start : start + record.nbytes]

    def weight(self, index: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
        """The bytes of block `index` of the weights, as a view."""
        record = self.header.weights[index]
        start = self.layout.weights_offset + record.offset
        return np.frombuffer(self.buffer, np.uint8, record.nbytes, start)

    def check_weights(self, num_threads: int) -> None:
        """Compare the weights with their checksums, on `num_threads` threads.

        Raises EngineError naming the first damaged range of bytes.
        """
        weights = self.buffer[self.layout.weights_offset : self.layout.trailer_offset]

        def damaged(first: int) -> list[int]:
            return [
                index
                for index in range(first, len(self._checksums), num_threads)
                if zlib.crc32(weights[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES])
                != self._checksums[index]
            ]

        if len(self._checksums) <= 1 or num_threads == 1:
            num_threads = 1
            bad = damaged(0)
        else:
            with ThreadPoolExecutor(num_threads, "plan-checksum") as pool:
                bad = [index for found in pool.map(damaged, range(num_threads)) for index in found]
        if bad:
            start = self.layout.weights_offset + min(bad) * CHUNK_BYTES
            end = min(start + CHUNK_BYTES, self.layout.trailer_offset)
            raise EngineError(
                f"the engine is damaged: the weights between bytes {start} and {end} do not match their checksum"
                f" ({len(bad)} of {len(self._checksums)} checksums are wrong). Copy or build it again."
            )

    def check_weights_digest(self) -> None:
        """Compare the weights with their sha256, on one thread; for whoever asks, loading has no need of it.

        Raises EngineError if they differ.
        """
        weights = self.buffer[self.layout.weights_offset : self.layout.trailer_offset]
        if hashlib.sha256(weights).digest() != self._weights_digest:
            raise EngineError(
                "the weights of the engine do not match their sha256: it was changed or damaged."
            )


def read_plan(buffer: memoryview) -> Plan:
    """Read a plan from memory, checking everything but the weights; no part is copied.

    buffer: contiguous bytes that stay unchanged for as long as the plan is used.
    Raises EngineError with the reason if it is no plan, not whole, damaged, or of another version.
    """
    if not buffer.c_contiguous:
        raise EngineError("the engine must be given as contiguous bytes.")
    view = buffer.toreadonly().cast("B")
    layout = Layout.unpack(view)
    trailer = bytes(view[layout.trailer_offset : layout.file_bytes])
    body, own_digest = trailer[:-DIGEST_BYTES], trailer[-DIGEST_BYTES:]
    _check_digest(body, own_digest, "trailer")
    head = view[: layout.segments_offset]
    _check_digest(head, body[:DIGEST_BYTES], "header")
    models = view[layout.segments_offset : layout.weights_offset]
    _check_digest(models, body[DIGEST_BYTES : 2 * DIGEST_BYTES], "segments")
    header = Header.from_json(bytes(head[PREFIX_BYTES:]), layout)
    return Plan(
        header=header,
        layout=layout,
        buffer=view,
        _checksums=struct.unpack(f"<{num_chunks(layout.weights_bytes)}I", body[3 * DIGEST_BYTES :]),
        _weights_digest=body[2 * DIGEST_BYTES : 3 * DIGEST_BYTES],
    )


def _check_digest(part: bytes | memoryview, expected: bytes, name: str) -> None:
    if hashlib.sha256(part).digest() != expected:
        raise EngineError(
            f"the engine is damaged: the checksum of its {name} is wrong. Copy or build it again."
        )
