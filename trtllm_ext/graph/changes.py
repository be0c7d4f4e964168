"""Values that are noted, changed on the way: what goes on in a network is what a changer makes of it.

A build that is asked for surgery (`builder.surgery`) puts its changer in place while the model's forward runs; without
one every value goes on as it is, and no layer is added.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

# A context variable, not a part of the network: a network of TensorRT-LLM's has no place for it.
_CHANGER: ContextVar[Changer | None] = ContextVar("trtllm_ext_changer", default=None)


class Changer(Protocol):
    """Asked at each value that a module notes, in the order of the layers, and once each."""

    def takes(self, module: Any, point: str) -> bool:
        """Whether the next value that `module` notes as `point` will be changed."""
        ...

    def change(self, module: Any, point: str, value: Any, meaning: str, token_group: list[int] | None) -> Any:
        """The value that goes on: of the same shape and type, or `value` itself.

        token_group: the ranks of which each has some of the tokens, the first axis; None where the value is all of it.
        """
        ...


@contextmanager
def changing(changer: Changer | None) -> Iterator[None]:
    """In the block, values that are noted go through `changer`."""
    token = _CHANGER.set(changer)
    try:
        yield
    finally:
        _CHANGER.reset(token)


def is_changed(module: Any, point: str) -> bool:
    """Whether the next value that `module` notes as `point` will be changed."""
    changer = _CHANGER.get()
    return changer is not None and changer.takes(module, point)


def changed(module: Any, point: str, value: Any, meaning: str, token_group: list[int] | None) -> Any:
    """What goes on in the network in place of `value`: itself, where nobody asked for a change."""
    changer = _CHANGER.get()
    return value if changer is None else changer.change(module, point, value, meaning, token_group)
