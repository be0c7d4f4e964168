"""report.html: one file that asks nobody for anything. Style, script and figures are in it, and its own policy forbids
the browser to load or to send anything else."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files as package_files
from typing import TYPE_CHECKING, Any

from trtllm_ext.analysis.report import figures, items
from trtllm_ext.analysis.report.alternatives import alternative
from trtllm_ext.version import __version__

if TYPE_CHECKING:
    from trtllm_ext.analysis.report.report import Report, Section

_PIXELS = 96  # of a page, an inch
_MEDIUM, _WIDE = 5.6, 10.0  # inches of a figure that would not be readable on a phone, and on a small screen
_MOST_NUMBERS = 3000  # cells of a figure's own table; programs have report.json


@dataclass(frozen=True)
class Images:
    """One figure for a light page and one for a dark one."""

    light: figures.Image
    dark: figures.Image


def html(report: Report, images: Mapping[str, Images], files: Sequence[str]) -> str:
    """The page. images: by the figure's name. files: names of the report's files, for the foot of the page."""
    style, script = (_resource(name) for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src {_digest(style)}; script-src {_digest(script)}; "
        f"base-uri 'none'; form-action 'none'"
    )
    parts = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(report.title)}</title>\n<style>{style}</style>\n</head>\n<body>",
        *_head(report, images),
        "<main>",
        *(part for index, section in enumerate(report.sections) for part in _section(index, section, images)),
        "</main>",
        f"<footer>Written by trtllm-ext {escape(__version__)}. Beside this page: {_listed(files)}.</footer>",
        f"<script>{script}</script>\n</body>\n</html>\n",
    ]
    return "\n".join(parts)


def _resource(name: str) -> str:
    return package_files(__package__).joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _listed(files: Sequence[str]) -> str:
    return ", ".join(f"<code>{escape(name)}</code>" for name in files if name != "report.html")


def _head(report: Report, images: Mapping[str, Images]) -> Iterable[str]:
    yield f"<header>\n<h1>{escape(report.title)}</h1>\n<pre><code>{escape(report.command)}</code></pre>\n<dl>"
    for key, value in report.facts.items():
        yield f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>"
    yield "</dl>"
    drawn = [item for section in report.sections for item in section.items if isinstance(item, items.Figure)]
    if len(images) < len(drawn):
        yield f"<p>{_prose(f'Figures left out: {len(drawn)}. {figures.WAY_OUT}')}</p>"
    yield '</header>\n<nav aria-labelledby="contents">\n<h2 id="contents">Contents</h2>\n<ol>'
    for index, section in enumerate(report.sections):
        yield f'<li><a href="#{_anchor(index, section)}">{escape(section.title)}</a></li>'
    yield "</ol>\n</nav>"


def _anchor(index: int, section: Section) -> str:
    return f"{index + 1}-{re.sub(r'[^a-z0-9]+', '-', section.title.lower()).strip('-')}".rstrip("-")


def _section(index: int, section: Section, images: Mapping[str, Images]) -> Iterable[str]:
    yield f'<section>\n<h2 id="{_anchor(index, section)}">{escape(section.title)}</h2>'
    for item in section.items:
        match item:
            case items.Text(paragraphs):
                yield from (f"<p>{_prose(each)}</p>" for each in paragraphs)
            case items.Table():
                yield f"{_figure_begin(item)}{_table(item.header, item.rows, item.name)}</figure>"
            case items.HeatMap() | items.Lines() | items.Bars():
                yield _figure(item, images.get(item.name))
    yield "</section>"


def _prose(text: str) -> str:
    """Escaped, with what stands between backquotes as code."""
    parts = escape(text, quote=False).split("`")
    if len(parts) % 2 == 0:  # one backquote is without its other half
        return escape(text, quote=False)
    return "".join(f"<code>{part}</code>" if index % 2 else part for index, part in enumerate(parts))


def _figure_begin(item: items.Table | items.Figure) -> str:
    name = f'<span class="name">{escape(item.name)}</span>'
    return f'<figure id="{escape(item.name)}">\n<figcaption>{_prose(item.caption)}{name}</figcaption>\n'


def _figure(item: items.Figure, images: Images | None) -> str:
    header, rows = _numbers(item)
    image = "" if images is None else _image(item, images)
    numbers = ""
    if len(rows) * len(header) <= _MOST_NUMBERS:
        shown = "" if images else " open"
        table = _table(header, rows, item.name)
        numbers = f"<details{shown}><summary>The numbers</summary>{table}</details>\n"
    return f"{_figure_begin(item)}{image}{numbers}</figure>"


def _image(item: items.Figure, images: Images) -> str:
    light, dark = (base64.b64encode(each.png).decode() for each in (images.light, images.dark))
    width, height = (round(_PIXELS * inches) for inches in (images.light.width, images.light.height))
    size = "wide" if images.light.width > _WIDE else "medium" if images.light.width > _MEDIUM else "small"
    return (
        f'<div class="scroll image {size}" tabindex="0" role="region" aria-label="{escape(item.name)}">\n<picture>'
        f'<source media="(prefers-color-scheme: dark)" srcset="data:image/png;base64,{dark}">'
        f'<img src="data:image/png;base64,{light}" width="{width}" height="{height}" '
        f'alt="{escape(alternative(item))}"></picture>\n</div>\n'
    )


def _numbers(item: items.Figure) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
    """A figure's values as a table."""
    match item:
        case items.HeatMap():
            rows = [[name, *values] for name, values in zip(item.rows, item.values.tolist(), strict=True)]
            return [item.row_label, *item.columns], rows
        case items.Lines():
            columns = [item.x.tolist(), *(values.tolist() for values in item.series.values())]
            return [item.x_label, *item.series], list(zip(*columns, strict=True))
        case items.Bars():
            columns = [list(item.labels), *(values.tolist() for values in item.series.values())]
            return ["", *item.series], list(zip(*columns, strict=True))


def _table(header: Sequence[str], rows: Sequence[Sequence[items.Cell]], name: str) -> str:
    """A table whose columns can be sorted; a column of numbers stands on the right."""
    numeric = [
        any(_is_number(row[index]) for row in rows)
        and all(row[index] is None or _is_number(row[index]) for row in rows)
        for index in range(len(header))
    ]
    heads = "".join(
        f'<th scope="col"{_NUMBER if right else ""}><button type="button">{escape(text) or "&nbsp;"}</button></th>'
        for text, right in zip(header, numeric, strict=True)
    )
    body = "\n".join(f"<tr>{_row(row, numeric)}</tr>" for row in rows)
    return (
        f'<div class="scroll rows" tabindex="0" role="region" aria-label="{escape(name)}, numbers">\n'
        f"<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>\n"
    )


_NUMBER = ' class="number"'


def _row(row: Sequence[items.Cell], numeric: Sequence[bool]) -> str:
    parts = []
    for index, (value, right) in enumerate(zip(row, numeric, strict=True)):
        tag, scope = ("td", "") if index else ("th", ' scope="row"')
        sort = f' data-value="{value:.9g}"' if _is_number(value) and math.isfinite(value) else ""  # type: ignore[arg-type]
        parts.append(f"<{tag}{scope}{_NUMBER if right else ''}{sort}>{_cell(value, index)}</{tag}>")
    return "".join(parts)


def _cell(value: items.Cell, column: int) -> str:
    """Names in the first column may be broken at their dots."""
    return (
        escape(shown(value))
        if column or not isinstance(value, str)
        else escape(shown(value)).replace(".", ".<wbr>")
    )


def _is_number(value: items.Cell) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def shown(value: items.Cell) -> str:
    """A cell as people read it: four digits of a float, integers whole, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}".replace(",", "\u202f") if isinstance(value, int) else value
