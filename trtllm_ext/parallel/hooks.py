"""What a communicator over processes tells whoever watches them, and what that one can do for it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, NoReturn

from trtllm_ext.parallel.ordered_sum import ranks_text


class Operation(NamedTuple):
    """An operation that a rank is in. size: number of values of `dtype`; group: global ranks."""

    kind: str
    size: int
    dtype: Any
    group: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.kind} of {self.size} {self.dtype} values over {ranks_text(self.group)}"


class Hooks:
    """The watcher that does not watch: failures are printed and end all ranks, nothing has a deadline.

    operation: the fields of an `Operation` that this rank is in, or None outside of any. The communicator assigns it,
    once before and once after each operation, so it may be a property.
    abort: ends the processes of all ranks with an exit code; a communicator sets it as soon as MPI has started.
    """

    operation: tuple[str, int, Any, tuple[int, ...]] | None = None

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.abort: Callable[[int], None] = os._exit

    @contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """While open, this rank is at work alone."""
        yield

    def fail(self, message: str) -> NoReturn:
        """Say why this rank cannot go on, and end all ranks. message: without "rank N"."""
        print(f"rank {self.rank} failed: {message}", file=sys.stderr, flush=True)  # noqa: T201
        self.abort(1)
        # Some libraries' MPI_Abort comes back.
        os._exit(1)

    def close(self, finalize: Callable[[], object] | None = None) -> None:
        """Watch no longer. finalize: ends MPI, in good order."""
        if finalize is not None:
            finalize()
