"""A report's files. The directory appears whole or not at all, and replaces nothing but an earlier report.

report.json is for programs: docs/residual_stream.md has its schema. What it has as numbers, arrays.safetensors has in
the type that it came in.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trtllm_ext.analysis.progress import Progress, silent
from trtllm_ext.analysis.report import figures, items, page
from trtllm_ext.errors import AnalysisError
from trtllm_ext.runtime.atomic import Kind, replaced_directory, write_errors
from trtllm_ext.runtime.json_files import read_json_object
from trtllm_ext.version import __version__

if TYPE_CHECKING:
    from trtllm_ext.analysis.report.report import Report

FORMAT, VERSION = "trtllm_ext.report", 1


@dataclass(frozen=True)
class _ReportKind(Kind):
    """An earlier report is what its report.json lists: a PNG that somebody put beside it is no part of it."""

    def foreign(self, directory: Path) -> list[str]:
        names = super().foreign(directory)
        if (directory / self.config).is_file() and not names:
            listed = read_json_object(directory / self.config, self.error).get("files", [])
            names = sorted(each.name for each in directory.glob("*.png") if each.name not in listed)
        return names


REPORT_DIRECTORY = _ReportKind(
    what="report",
    files=re.compile(r"report\.html|report\.json|arrays\.safetensors|[a-z0-9_.-]+\.png"),
    is_config=lambda config: config.get("format") == FORMAT,
    error=AnalysisError,
    config="report.json",
)


def write(report: Report, directory: str | os.PathLike[str], progress: Progress | None) -> Path:
    """`Report.write`."""
    tell = progress or silent
    drawn = [item for section in report.sections for item in section.items if isinstance(item, items.Figure)]
    with replaced_directory(directory, REPORT_DIRECTORY) as staging:
        images: dict[str, page.Images] = {}
        for index, item in enumerate(drawn if figures.available() else ()):
            tell("figures", index, len(drawn))
            images[item.name] = page.Images(*(figures.draw(item, theme) for theme in figures.THEMES))
        arrays = _arrays(report)
        with write_errors(directory, AnalysisError):
            for name, image in images.items():
                (staging / f"{name}.png").write_bytes(image.light.png)
            if arrays:
                _save(arrays, staging / "arrays.safetensors")
            files = sorted([*(entry.name for entry in staging.iterdir()), "report.html", "report.json"])
            (staging / "report.html").write_text(page.html(report, images, files), encoding="utf-8")
            (staging / "report.json").write_text(_json(report, files), encoding="utf-8")
    return Path(directory).resolve()


def _arrays(report: Report) -> dict[str, npt.NDArray[Any]]:
    """Every tensor of arrays.safetensors: arrays and heat maps by name, lines and bars by name/series."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    for item in (item for section in report.sections for item in section.items):
        match item:
            case items.HeatMap() | items.Values():
                arrays[item.name] = item.values
            case items.Lines():
                arrays[f"{item.name}/x"] = item.x
        if isinstance(item, items.Lines | items.Bars):
            arrays |= {f"{item.name}/y/{key}": values for key, values in item.series.items()}
    return arrays


def _save(arrays: dict[str, npt.NDArray[Any]], path: Path) -> None:
    from safetensors.numpy import save

    path.write_bytes(save({name: np.ascontiguousarray(values) for name, values in arrays.items()}))


def _json(report: Report, files: list[str]) -> str:
    """One line an item, so that a difference of two reports can be read."""
    head = {
        "format": FORMAT,
        "version": VERSION,
        "trtllm_ext": __version__,
        "title": report.title,
        "command": report.command,
        "facts": report.facts,
        "files": files,
    }
    sections = [
        f'{{"title": {json.dumps(section.title)}, "items": ['
        + ",".join("\n  " + json.dumps(_item(item), allow_nan=False) for item in section.items)
        + "]}"
        for section in report.sections
    ]
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    return "{" + ",\n".join([*lines, '"sections": [' + ",\n".join(sections) + "]"]) + "}\n"


def _item(item: items.Item) -> dict[str, Any]:
    match item:
        case items.Text(paragraphs):
            return {"kind": "text", "paragraphs": paragraphs}
        case items.Table():
            rows = [[_number(cell) for cell in row] for row in item.rows]
            return _named("table", item, header=item.header, rows=rows)
        case items.HeatMap():
            shown = {"rows": item.rows, "columns": item.columns, "values": _numbers(item.values)}
            labels = {"row_label": item.row_label, "column_label": item.column_label}
            scale = {"unit": item.unit, "diverging": item.diverging, "log": item.log}
            return _named("heat_map", item, **scale, **labels, **shown)
        case items.Lines():
            axes = {"x_label": item.x_label, "y_label": item.y_label, "log": item.log}
            return _named("lines", item, **axes, x=_numbers(item.x), series=_series(item))
        case items.Bars():
            axes = {"y_label": item.y_label, "log": item.log}
            return _named("bars", item, **axes, labels=item.labels, series=_series(item))
        case items.Values():
            shape = list(item.values.shape)
            return {"kind": "array", "name": item.name, "shape": shape, "dtype": item.values.dtype.name}


def _named(kind: str, item: items.Table | items.Figure, **rest: Any) -> dict[str, Any]:
    return {"kind": kind, "name": item.name, "caption": item.caption, **rest}


def _series(item: items.Lines | items.Bars) -> dict[str, Any]:
    return {key: _numbers(values) for key, values in item.series.items()}


def _numbers(values: npt.NDArray[Any]) -> list[Any]:
    """Nested lists. A narrow float is the shortest number that reads as the same value of its type."""
    if values.ndim > 1:
        return [_numbers(row) for row in values]
    if values.dtype.kind == "f" and values.dtype.itemsize < 8:
        return [_number(float(str(value))) for value in values]
    return [_number(value) for value in values.tolist()]


def _number(value: items.Cell) -> items.Cell:
    """value, or None (null) for NaN and the infinities, which JSON has no words for."""
    return None if isinstance(value, float) and not np.isfinite(value) else value
