"""What a report is made of, checked when it is given: every part knows its name and its shape."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trtllm_ext.errors import ConfigError

Cell = str | int | float | bool | None
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*(\.[a-z0-9_-]+)*")


@dataclass(frozen=True)
class Text:
    """Paragraphs. Code between backquotes is shown as code."""

    paragraphs: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """header: one word a column. rows: numbers as numbers, so that they can be sorted; None where there is none."""

    name: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str


@dataclass(frozen=True)
class HeatMap:
    """values: (rows, columns); a cell that is not finite stays empty. diverging: 0 is in the middle of the colours.

    log: the colours are logarithmic; what is not above 0 stays empty.
    """

    name: str
    values: npt.NDArray[Any]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    caption: str
    unit: str
    diverging: bool
    row_label: str
    column_label: str
    log: bool


@dataclass(frozen=True)
class Lines:
    """series: values by name, each as long as x. log: the y axis is logarithmic."""

    name: str
    x: npt.NDArray[Any]
    series: Mapping[str, npt.NDArray[Any]]
    x_label: str
    y_label: str
    caption: str
    log: bool


@dataclass(frozen=True)
class Bars:
    """series: values by name, each with one bar for every label."""

    name: str
    labels: tuple[str, ...]
    series: Mapping[str, npt.NDArray[Any]]
    y_label: str
    caption: str
    log: bool


@dataclass(frozen=True)
class Values:
    """An array for programs alone; it is in arrays.safetensors and named in report.json."""

    name: str
    values: npt.NDArray[Any]


Figure = HeatMap | Lines | Bars
Item = Text | Table | Figure | Values


def check_name(name: str) -> str:
    """A name that a file may have everywhere; raises ConfigError for another."""
    if not _NAME.fullmatch(name) or len(name) > 100:
        raise ConfigError(
            f"{name!r} is no name of a part of a report; expected up to 100 of a-z, 0-9, _, - and single dots, as in "
            f"layers.3.mlp."
        )
    return name


def cells(name: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> tuple[tuple[Cell, ...], ...]:
    """The rows with NumPy's numbers as Python's; raises ConfigError for a row of another length than the header."""
    plain = tuple(tuple(_cell(name, value) for value in row) for row in rows)
    for index, row in enumerate(plain):
        if len(row) != len(header):
            raise ConfigError(
                f"table {name}: row {index} has {len(row)} cells, expected {len(header)}: {', '.join(header)}."
            )
    return plain


def _cell(name: str, value: Any) -> Cell:
    plain = value.item() if isinstance(value, np.generic) else value
    if plain is not None and not isinstance(plain, str | int | float | bool):
        raise ConfigError(f"table {name}: {plain!r} is no cell; expected a text, a number or None.")
    return plain


def real(name: str, values: Any, ndim: int) -> npt.NDArray[Any]:
    """values as an array of `ndim` dimensions; raises ConfigError for another, and for what holds no real numbers."""
    array = np.asarray(values)
    if array.dtype.name == "bfloat16":  # ml_dtypes's, which neither figures nor JSON know
        array = array.astype(np.float32)
    if array.ndim != ndim or array.dtype.kind not in "biuf":
        raise ConfigError(
            f"{name} has shape {array.shape} and type {array.dtype}; expected {ndim} dimensions of real numbers."
        )
    return array


def fitting(name: str, series: Mapping[str, Any], length: int) -> dict[str, npt.NDArray[Any]]:
    """Every series as an array of that length; raises ConfigError for another, and for no series at all."""
    arrays = {key: real(f"{name}: {key}", values, 1) for key, values in series.items()}
    for key, array in arrays.items():
        if len(array) != length:
            raise ConfigError(f"{name}: {key} has {len(array)} values, expected {length}.")
    if not arrays:
        raise ConfigError(f"{name} has no series; expected one at least.")
    return arrays
