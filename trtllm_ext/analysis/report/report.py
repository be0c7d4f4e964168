"""`Report`: sections of text, tables and figures, collected first and written as a whole."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trtllm_ext.analysis.progress import Progress
from trtllm_ext.analysis.report import items
from trtllm_ext.errors import ConfigError


@dataclass
class Section:
    """title: shown above it. items: in the order they were given."""

    title: str
    items: list[items.Item] = field(default_factory=list)


class Report:
    """What a command found out.

    title: the page's. command: what was run, word for word. facts: of the source, by name (model, sizes, types).
    Every table, figure and array has a name, once in the whole report: it is the name of its PNG, of its tensors and
    of its entry in report.json.
    All methods raise ConfigError for what does not fit: names, lengths, shapes.
    """

    def __init__(self, title: str, *, command: str, facts: Mapping[str, str]) -> None:
        self.title, self.command = title, command
        self.facts = {str(key): str(value) for key, value in facts.items()}
        self.sections: list[Section] = []
        self._names: set[str] = set()

    def section(self, title: str) -> None:
        """Begin a section; what follows stands in it."""
        self.sections.append(Section(title))

    def text(self, *paragraphs: str) -> None:
        """Paragraphs of plain text; `code` between backquotes."""
        self._add(items.Text(paragraphs))

    def table(
        self, name: str, header: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = ""
    ) -> None:
        """rows: texts, numbers (sorted as numbers, shown with 4 digits), booleans, None for an empty cell."""
        plain = items.cells(name, header, rows)
        self._add(items.Table(self._new(name), tuple(header), plain, caption))

    def heat_map(
        self,
        name: str,
        values: Any,
        rows: Sequence[str],
        columns: Sequence[str],
        caption: str,
        unit: str,
        diverging: bool = False,
        *,
        row_label: str = "",
        column_label: str = "",
        log: bool = False,
    ) -> None:
        """values: (rows, columns), the first row on top; what is not finite stays empty.

        unit: what the colours measure. diverging: values on both sides of 0, which gets the middle colour.
        log: colours by magnitude; what is not above 0 stays empty.
        """
        array = items.real(name, values, 2)
        if array.shape != (len(rows), len(columns)) or not array.size:
            raise ConfigError(
                f"heat map {name} has shape {array.shape}; its labels are {len(rows)} rows and {len(columns)} columns."
            )
        if diverging and log:
            raise ConfigError(f"heat map {name} is diverging and log; expected one of them.")
        rows, columns = tuple(map(str, rows)), tuple(map(str, columns))
        labels = (caption, unit, diverging, row_label, column_label, log)
        self._add(items.HeatMap(self._new(name), array, rows, columns, *labels))

    def lines(
        self,
        name: str,
        x: Any,
        series: Mapping[str, Any],
        x_label: str,
        y_label: str,
        caption: str,
        log: bool = False,
    ) -> None:
        """series: y values by name, each as long as x. log: a logarithmic y axis."""
        x_values = items.real(name, x, 1)
        fitting = items.fitting(name, series, len(x_values))
        self._add(items.Lines(self._new(name), x_values, fitting, x_label, y_label, caption, log))

    def bars(
        self,
        name: str,
        labels: Sequence[str],
        series: Mapping[str, Any],
        y_label: str,
        caption: str,
        log: bool = False,
    ) -> None:
        """series: one value for every label, by name; several series stand side by side."""
        fitting = items.fitting(name, series, len(labels))
        self._add(items.Bars(self._new(name), tuple(map(str, labels)), fitting, y_label, caption, log))

    def arrays(self, name: str, values: Any) -> None:
        """An array of any shape for programs, in arrays.safetensors under its name."""
        array = np.asarray(values)
        self._add(items.Values(self._new(name), items.real(name, array, array.ndim)))

    def write(self, directory: str | os.PathLike[str], progress: Progress | None = None) -> Path:
        """Write report.html, NAME.png of every figure, report.json and arrays.safetensors: all of them or nothing.

        directory: new, empty, or an earlier report, which is replaced; returned as an absolute path.
        Without matplotlib no PNG is written and the page says so. Raises ConfigError for a report without sections,
        AnalysisError for a directory that cannot be written or holds something else.
        """
        from trtllm_ext.analysis.report.writing import write

        if not self.sections:
            raise ConfigError("a report needs a section at least.")
        return write(self, directory, progress)

    def _new(self, name: str) -> str:
        if items.check_name(name) in self._names:
            raise ConfigError(f"the report has a part named {name} already; give each a name of its own.")
        self._names.add(name)
        return name

    def _add(self, item: items.Item) -> None:
        if not self.sections:
            raise ConfigError("the report has no section yet; begin one with section(title).")
        self.sections[-1].items.append(item)
