"""Markdown of what the scripts of cases wrote: `python table.py FILE...`; lines of forms make one table of forms.

When a case has several lines, the last one counts; one that says that there was no time, only where no other is.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Line = dict[str, Any]
_TYPES = ("float32", "float16")


def lines_of(paths: Iterable[str]) -> list[Line]:
    """All lines, those of a name that comes again replaced."""
    found = [
        json.loads(line) for path in paths for line in Path(path).read_text("utf-8").splitlines() if line
    ]
    found.sort(key=lambda line: ("not run", "timeout", line["came"]).index(line["came"]))
    return list({line["name"]: line for line in found}.values())


def forms_table(lines: list[Line]) -> str:
    """A row a form: its errors in each type, without and with all taps, and how long the two builds took."""
    by_form: dict[str, dict[str, Line]] = {}
    for line in lines:
        if line.get("dtype") in _TYPES:
            by_form.setdefault(line["form"], {})[line["dtype"]] = line
    rows = [
        [form, str(max(line.get("taps", 0) for line in of.values()))]
        + [cell for dtype in _TYPES for cell in _cells(of.get(dtype))]
        for form, of in by_form.items()
    ]
    heads = ["form", "outputs with taps"]
    heads += [f"{dtype}{what}" for dtype in _TYPES for what in ("", ", taps", ", build s")]
    return _markdown(heads, rows)


def _cells(line: Line | None) -> list[str]:
    if line is None:
        return ["not run"] * 3
    if "error" not in line and "taps_error" not in line:
        return [line["came"], "", ""]
    mark = " (wrong)" if line["came"] == "wrong" else ""
    errors = [f"{line[key]:.1e}{mark}" if key in line else "refused" for key in ("error", "taps_error")]
    seconds = [f"{line[key]:.0f}" for key in ("build_s", "build_taps_s") if key in line]
    return [*errors, " + ".join(seconds)]


def checks_table(lines: list[Line]) -> str:
    """A row a case of the other scripts: its name, what came of it, and what was seen."""
    rows = [
        [line["name"], line["came"], _one_line(line.get("why", ""))] for line in lines if "form" not in line
    ]
    return _markdown(["case", "came", "seen"], rows)


def said(lines: list[Line]) -> str:
    """Sentences and failures of forms."""
    rows = [
        [line["name"], line["came"], _one_line(line["why"])]
        for line in lines
        if "form" in line and line["why"]
    ]
    return _markdown(["form", "came", "said"], rows)


def worst(lines: list[Line]) -> str:
    """The largest errors by type; of a form of which one engine was refused that of the other."""
    told = []
    for dtype in _TYPES:
        of = [line for line in lines if line.get("dtype") == dtype]
        for key, what in (("error", "error"), ("taps_error", "error with taps")):
            if have := [line for line in of if key in line]:
                most = max(have, key=lambda line: line[key])
                told.append(f"{dtype}: largest {what} of {len(have)} forms {most[key]:.1e} ({most['form']})")
        if changed := [line["taps_changed"] for line in of if line.get("taps_changed", 0) > 0]:
            told.append(f"{dtype}: taps changed {len(changed)} results, at most by {max(changed):.1e}")
    return "\n".join(told)


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")[-600:]


def _markdown(heads: list[str], rows: list[list[str]]) -> str:
    if not rows:
        return ""
    ruler = ["---" if number == 0 else "--:" for number in range(len(heads))]
    return "\n".join(f"| {' | '.join(row)} |" for row in [heads, ruler, *rows]) + "\n"


if __name__ == "__main__":
    every = lines_of(sys.argv[1:])
    for part in (forms_table, worst, said, checks_table):
        sys.stdout.write(f"{part(every)}\n")
