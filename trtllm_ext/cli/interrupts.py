"""Ctrl-C, remembered: a library that is interrupted while it loads turns KeyboardInterrupt into errors of its own."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_noted = False


@contextmanager
def watched() -> Iterator[None]:
    """Note interrupts of the block, which are raised as KeyboardInterrupt as ever.

    Only where Python's own handler is in place: an ignored SIGINT stays ignored, another program's handler stays.
    """
    global _noted
    _noted = False
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    try:
        signal.signal(signal.SIGINT, _note)
    except ValueError:  # signals belong to the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def noted() -> bool:
    """Whether there was an interrupt since the last `watched` began."""
    return _noted


def raise_if_noted() -> None:
    """Raise KeyboardInterrupt once more if there was one: for code that catches every exception."""
    if _noted:
        raise KeyboardInterrupt


def _note(number: int, frame: FrameType | None) -> None:
    global _noted
    _noted = True
    raise KeyboardInterrupt
