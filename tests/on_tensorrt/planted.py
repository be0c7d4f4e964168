"""Engine directories with something wrong in them: damage, and words that are not so."""

import hashlib
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from trtllm_ext.runtime.envelope import Envelope, ends_digest, engine_name, envelope_name


def damaged(directory: Path, change: Callable[[bytearray], bytearray], *, seal: bool = False) -> None:
    """Change an engine's bytes; with `seal` its envelope says that they are right."""
    path = directory / engine_name(0)
    path.write_bytes(change(bytearray(path.read_bytes())))
    if seal:
        with path.open("rb") as file:
            size = path.stat().st_size
            resealed(
                directory,
                engine_bytes=size,
                engine_crc32=zlib.crc32(path.read_bytes()),
                engine_ends_sha256=ends_digest(file, size),
            )


def resealed(directory: Path, **words: Any) -> None:
    """Change what an envelope says, with a digest that fits."""
    path = directory / envelope_name(0)
    replace(Envelope.read(path), **words).write(path)


def cut(share: float) -> Callable[[bytearray], bytearray]:
    """Only the first part of the bytes is left."""
    return lambda data: data[: int(len(data) * share)]


def flipped(share: float) -> Callable[[bytearray], bytearray]:
    """One bit is another, at that share of the length."""

    def change(data: bytearray) -> bytearray:
        data[min(int(len(data) * share), len(data) - 1)] ^= 0x10
        return data

    return change


def noise(data: bytearray) -> bytearray:
    """Bytes of the same number that mean nothing."""
    block = hashlib.sha256(b"noise").digest()
    return bytearray((block * (len(data) // len(block) + 1))[: len(data)])
