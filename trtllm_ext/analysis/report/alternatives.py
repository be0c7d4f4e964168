"""What a figure shows, in a sentence or two, for those who do not see it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from trtllm_ext.analysis.report import items

_MOST_DESCRIBED = 8


def alternative(item: items.Figure) -> str:
    """The text that stands for a figure: its kind and size, what it measures, its extremes and where they are."""
    match item:
        case items.HeatMap():
            return _heat_map(item)
        case items.Lines():
            return (
                f"Lines: {item.y_label} over {item.x_label}. {_series(item, 'from {:.3g} to {:.3g}', _ends)}"
            )
        case items.Bars():
            what = (
                f"{len(item.labels)} groups of bars" if len(item.series) > 1 else f"{len(item.labels)} bars"
            )
            return f"{what}: {item.y_label}. {_series(item, 'between {:.3g} and {:.3g}', _extremes)}"


def _heat_map(item: items.HeatMap) -> str:
    size = f"Heat map of {len(item.rows)} rows by {len(item.columns)} columns, {item.unit}."
    finite = np.isfinite(item.values)
    if not finite.any():
        return f"{size} No cell has a value."
    least, most = (
        _cell(item, find(np.where(finite, item.values, empty)))
        for find, empty in ((np.argmin, np.inf), (np.argmax, -np.inf))
    )
    empty = f" {int((~finite).sum())} cells have no value." if not finite.all() else ""
    return f"{size} Least {least}; most {most}.{empty}"


def _cell(item: items.HeatMap, flat: Any) -> str:
    row, column = np.unravel_index(flat, item.values.shape)
    return f"{item.values[row, column]:.3g} at {item.rows[row]}, {item.columns[column]}"


def _series(item: items.Lines | items.Bars, words: str, numbers: Any) -> str:
    parts = []
    for name, values in list(item.series.items())[:_MOST_DESCRIBED]:
        finite = values[np.isfinite(values)]
        parts.append(f"{name} {words.format(*numbers(finite))}" if finite.size else f"{name} without a value")
    if (more := len(item.series) - _MOST_DESCRIBED) > 0:
        parts.append(f"and {more} more")
    return "; ".join(parts) + "."


def _ends(values: npt.NDArray[Any]) -> tuple[Any, Any]:
    return values[0], values[-1]


def _extremes(values: npt.NDArray[Any]) -> tuple[Any, Any]:
    return values.min(), values.max()
