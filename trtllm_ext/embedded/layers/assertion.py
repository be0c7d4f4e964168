"""The view of the layer that stops a build or a run."""

from __future__ import annotations

from typing import Any

from trtllm_ext.embedded.layers.base import Attribute, ILayer
from trtllm_ext.embedded.types import text_of


def as_message(value: Any) -> str:
    """A check for texts that can be logged."""
    return text_of(value, "the message of an assertion")


class IAssertionLayer(ILayer):
    """An error where a boolean shape tensor has a false element; it has no output."""

    __slots__ = ()
    message = Attribute[str](as_message, "What the error says.")
