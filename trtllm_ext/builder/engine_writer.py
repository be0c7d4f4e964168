"""Writes an engine file piece by piece, keeping count of what its envelope will say."""

import os
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from trtllm_ext.errors import BuildError
from trtllm_ext.runtime.atomic import write_errors
from trtllm_ext.runtime.envelope import ends_digest


class EngineWriter:
    """Receives an engine's bytes; what goes wrong is kept in `problem` and answered with a short write.

    TensorRT calls `write` from its own code, through which no Python exception should travel.
    output_dir: what the BuildError names when the file cannot be written.
    progress: told how many bytes are written; what it raises is kept as it is.
    """

    def __init__(
        self,
        path: Path,
        output_dir: str | os.PathLike[str],
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self._guard = partial(write_errors, output_dir, BuildError)
        with self._guard():
            self._file = path.open("w+b")
        self._progress = progress
        self.problem: BaseException | None = None
        self.num_bytes = 0
        self.crc32 = 0

    def write(self, data: Any) -> int:
        """Append a bytes-like object; returns how many bytes were taken, 0 after a problem."""
        view = memoryview(data).cast("B")
        try:
            with self._guard():
                self._file.write(view)  # a buffered file takes everything or raises
            self.num_bytes += view.nbytes
            self.crc32 = zlib.crc32(view, self.crc32)
            if self._progress is not None:
                self._progress(self.num_bytes)
        except BaseException as problem:
            self.problem = problem
            return 0
        return view.nbytes

    def ends_sha256(self) -> str:
        """Digest of the first and last 64 KiB, see `runtime.envelope`."""
        with self._guard():
            self._file.flush()
        return ends_digest(self._file, self.num_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._guard():
                self._file.close()  # flushes, which may meet a full disk
        except BuildError:
            if error is None:
                raise
