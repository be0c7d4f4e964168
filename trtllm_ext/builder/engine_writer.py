"""Writes an engine file piece by piece, keeping count of what its envelope will say."""

import zlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from trtllm_ext.runtime.envelope import ends_digest


class EngineWriter:
    """Receives an engine's bytes; an operating system error is kept in `problem` and answered with a short write.

    TensorRT calls `write` from its own code, through which no Python exception should travel.
    """

    def __init__(self, path: Path, progress: Callable[[int], None] | None = None) -> None:
        self._file = path.open("w+b")
        self._progress = progress
        self.problem: OSError | None = None
        self.num_bytes = 0
        self.crc32 = 0

    def write(self, data: Any) -> int:
        """Append a bytes-like object; returns how many bytes were taken, 0 after a problem."""
        view = memoryview(data).cast("B")
        try:
            # A buffered file takes everything or raises.
            self._file.write(view)
        except OSError as problem:
            self.problem = problem
            return 0
        self.num_bytes += view.nbytes
        self.crc32 = zlib.crc32(view, self.crc32)
        if self._progress is not None:
            self._progress(self.num_bytes)
        return view.nbytes

    def ends_sha256(self) -> str:
        """Digest of the first and last 64 KiB, see `runtime.envelope`."""
        self._file.flush()
        return ends_digest(self._file, self.num_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._file.close()  # flushes, which may meet a full disk
        except OSError:
            if error is None:
                raise
