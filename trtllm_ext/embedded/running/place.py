"""Where values lie during a run."""

from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Place:
    """Where a value lies during a run. `owner` keeps its memory alive; a Block goes back when the value is done."""

    shape: tuple[int, ...]
    address: int
    owner: Any = None
