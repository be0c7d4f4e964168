"""Labels of figures: how large they are, how many have room."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINTS = 72  # an inch
FONT, SMALL_FONT = 8.5, 6.4  # points
_LEAST_CELL = 0.088  # inches for a label of its own
_LONGEST_LABEL = 36


@dataclass(frozen=True)
class Ticks:
    """Labels of an axis, thinned until each has room. extent: inches of the longest."""

    labels: Sequence[str]
    step: int
    font: float
    extent: float

    def put(self, axes: Axes, axis: str, rotation: float = 0) -> None:
        places = range(0, len(self.labels), self.step)
        shown = [self.labels[place] for place in places]
        ticks = axes.set_xticks if axis == "x" else axes.set_yticks
        ticks(list(places), shown, fontsize=self.font, rotation=rotation, parse_math=False)


def ticks_of(labels: Sequence[str], inches: float) -> Ticks:
    """Of an axis that is `inches` long."""
    cell = inches / len(labels)
    step = max(1, int(np.ceil(_LEAST_CELL / cell - 1e-9)))
    font = FONT if cell * step > 1.4 * FONT / POINTS else SMALL_FONT
    shown = [one_line(label) for label in labels]
    return Ticks(shown, step, font, max(ems(label) for label in shown) * font / POINTS)


def one_line(label: str) -> str:
    """Cut to what fits, with characters that have no picture (line ends, tabs) written out."""
    plain = "".join(char if char.isprintable() else repr(char)[1:-1] for char in label)
    return plain if len(plain) <= _LONGEST_LABEL else plain[: _LONGEST_LABEL - 1] + "…"


def ems(label: str) -> float:
    """The width of a text in font sizes, about."""
    return sum(1.0 if unicodedata.east_asian_width(char) in "WF" else 0.62 for char in label)
