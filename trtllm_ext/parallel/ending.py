"""How a rank's process ends: in good order with MPI finalized, or by a failure that all other ranks hear of.

MPI_Finalize may wait for the other ranks, which may wait in an operation for this one. So a process that ends by an
exception, or by sys.exit with a code that is not 0, ends all ranks and never finalizes.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, NoReturn

from trtllm_ext.parallel.hooks import Hooks


class Ending:
    """Watches how this process ends. finalize: ends MPI in good order; called at most once.

    A SystemExit that is raised without sys.exit is not seen: such a process leaves in good order, and ranks that still
    wait for it hear that it has left. One from sys.exit that somebody caught, so that the process went on, counts.
    """

    def __init__(self, monitor: Hooks, finalize: Callable[[], None]) -> None:
        self._monitor, self._finalize = monitor, finalize
        self._failure = self._cause = ""
        self._excepthook, self._exit = sys.excepthook, sys.exit

    def install(self) -> None:
        """Before whatever else is registered with `atexit`, if it shall be done first: the last one goes first."""
        sys.excepthook = self._on_exception
        sys.exit = self._on_exit
        atexit.register(self._end)
        # What a rank forks is no rank, and its end no matter of the others.
        os.register_at_fork(after_in_child=self._uninstall)

    def _uninstall(self) -> None:
        sys.excepthook, sys.exit = self._excepthook, self._exit
        atexit.unregister(self._end)

    def fail_with(self, cause: str) -> None:
        """This process ends as one that has failed, and says `cause`, in whichever way it ends."""
        self._cause = cause

    def _on_exception(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        self._excepthook(kind, error, trace)
        self._failure = f"{kind.__name__}: {error}"

    def _on_exit(self, code: Any = None) -> NoReturn:
        # Only the main thread's ends the process.
        if code not in (None, 0) and threading.current_thread() is threading.main_thread():
            self._failure = f"it ended with sys.exit({code!r})"
        self._exit(code)

    def _end(self) -> None:
        failure = self._cause or self._failure
        if failure:
            with suppress(Exception):  # closed, or its reader gone
                sys.stdout.flush()
            self._monitor.fail(failure)
        self._monitor.close(self._finalize)
