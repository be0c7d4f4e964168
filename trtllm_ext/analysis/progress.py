"""How a long computation tells what it is doing."""

from typing import Protocol


class Progress(Protocol):
    """Called at least twice a second, with what is being done and how many of how many parts of it are.

    `trtllm_ext.cli.terminal.steps` is one for people. A computation that takes one may be ended by KeyboardInterrupt at
    any time; it writes nothing before it has ended.
    """

    def __call__(self, step: str, done: int, total: int, /) -> None: ...


def silent(step: str, done: int, total: int, /) -> None:
    """A `Progress` that tells nobody."""
