"""What is claimed for which library: the table of support.json, and which of its columns an installation is in.

docs/compatibility.md is written from it by docs/make_tables.py, `trtllm-ext doctor` reads it, and a test holds each
claim to the test that stands behind it.
"""

import functools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from trtllm_ext import backend

WORDS = ("ran", "ran on the embedded engine", "signature-checked", "not available")
# Version (major, minor) -> column.
TENSORRT = {(8, 6): "tensorrt_8.6", (10, 14): "tensorrt_10.14", (11, 4): "tensorrt_11.4"}
TENSORRT_LLM = {(0, 16): "tensorrt_llm_0.16", (1, 2): "tensorrt_llm_1.2"}


@dataclass(frozen=True)
class Cell:
    """One claim: a word of WORDS, and the test behind it, "" where nothing is claimed.

    test: as `file`, `file::function` or `file::function[case]`.
    """

    word: str
    test: str


@dataclass(frozen=True)
class Place:
    """The column of the table that an installation is in, or the nearest where its version has none.

    text: a sentence for people.
    """

    column: str
    is_exact: bool
    text: str


@functools.cache
def columns() -> dict[str, str]:
    """Key of each column -> its heading."""
    return dict(_table()["columns"])


@functools.cache
def features() -> dict[str, dict[str, Cell]]:
    """Feature -> column -> cell, in the order of the page; every feature has a cell in every column."""
    return {
        feature: {column: Cell(*cells[column]) for column in columns()}
        for feature, cells in _table()["features"].items()
    }


def place() -> Place:
    """The column of what is installed and in use here. Raises BackendError as `backend.choice` does."""
    choice = backend.choice()
    if choice.engine == "embedded":
        return place_of("embedded")
    if choice.graph == "tensorrt_llm":
        return place_of("tensorrt_llm", _version_of(import_module("tensorrt_llm")))
    return place_of("tensorrt", _version_of(backend.tensorrt()))


def place_of(library: str, version: str = "", state: str = "in use") -> Place:
    """The column of a library ('embedded', 'tensorrt' or 'tensorrt_llm') of a version such as "10.14.1.48".

    state: what the sentence says of it. A version without a column gets the nearest: of its own major version, else the
    next newer, else the last.
    """
    if library == "embedded":
        return Place("embedded", True, f"the {columns()['embedded']} is in use")
    checked = TENSORRT if library == "tensorrt" else TENSORRT_LLM
    name = "TensorRT" if library == "tensorrt" else "TensorRT-LLM"
    version = version or "of unknown version"
    numbers = _numbers(version)
    if numbers in checked:
        column = checked[numbers]
        return Place(column, True, f"{name} {version} is {state}, which is in the column {columns()[column]}")
    nearest = min(
        checked, key=lambda each: (each[0] != numbers[0], each < numbers, abs(each[0] - numbers[0]), each)
    )
    where = _between(numbers, sorted(checked))
    return Place(
        checked[nearest],
        False,
        f"{name} {version} is {state}, {where}: nothing is claimed for it; the words are those "
        f"of the nearest column, {columns()[checked[nearest]]}",
    )


def cells_of(place: Place) -> dict[str, Cell]:
    """Feature -> cell, of a place's column."""
    return {feature: cells[place.column] for feature, cells in features().items()}


def by_word(place: Place) -> Iterator[tuple[str, str]]:
    """(word, its features) of a place's cells, for the words that have some."""
    for word in WORDS:
        if found := [feature for feature, cell in cells_of(place).items() if cell.word == word]:
            yield word, "; ".join(found).replace("`", "")


def as_data(place: Place | None) -> dict[str, Any] | None:
    """A place and its cells as plain data."""
    if place is None:
        return None
    cells = [{"feature": feature, **asdict(cell)} for feature, cell in cells_of(place).items()]
    return {**asdict(place), "cells": cells}


def _between(numbers: tuple[int, int], checked: list[tuple[int, int]]) -> str:
    if not any(numbers):
        return "whose version is not told"
    below = [each for each in checked if each < numbers]
    above = [each for each in checked if each > numbers]
    if not below:
        return f"older than the first version of the table ({_dotted(above[0])})"
    if not above:
        return f"newer than the last version of the table ({_dotted(below[-1])})"
    return f"between two versions of the table ({_dotted(below[-1])} and {_dotted(above[0])})"


def _dotted(numbers: tuple[int, int]) -> str:
    return f"{numbers[0]}.{numbers[1]}"


def _numbers(version: str) -> tuple[int, int]:
    major, minor = [*version.split("."), "", ""][:2]
    return (int(major) if major.isdigit() else 0, int(minor) if minor.isdigit() else 0)


def _version_of(module: object) -> str:
    return str(getattr(module, "__version__", ""))


def _table() -> dict[str, Any]:
    text = Path(__file__).with_name("support.json").read_text(encoding="utf-8")
    return dict(json.loads(text))
