"""What a launcher's processes write, on its way to where this process writes."""

from __future__ import annotations

import codecs
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import IO, Any

_KEPT_BYTES = 1 << 16


class Output:
    """Copies a process's stdout and stderr to this one's as they arrive, from threads of its own.

    process: made with pipes for both.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._kept = bytearray()
        self._threads = [
            threading.Thread(target=self._pass_on, args=(source, target), daemon=True)
            for source, target in ((process.stdout, sys.stdout), (process.stderr, sys.stderr))
        ]
        for thread in self._threads:
            thread.start()

    def heard(self, patience: float) -> str:
        """The last of what was written, after waiting at most `patience` seconds for its end."""
        deadline = time.monotonic() + patience
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return self._kept.decode(errors="replace")

    def _pass_on(self, source: IO[bytes], target: Any) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        with source:
            while received := os.read(source.fileno(), 1 << 16):
                self._kept += received
                del self._kept[:-_KEPT_BYTES]
                text = decoder.decode(received)
                # A reader that has gone away, or was never there, is no reason to stop the ranks.
                with suppress(OSError, ValueError, AttributeError):
                    # Notebooks and `contextlib.redirect_stdout` have streams of text alone.
                    if hasattr(target, "buffer"):
                        target.buffer.write(received)
                    else:
                        target.write(text)
                    target.flush()
