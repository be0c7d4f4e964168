"""Output for people on a terminal, plain lines for everything else. Results go to stdout, progress to stderr."""

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from trtllm_ext.analysis.progress import Progress

_LEAST_WIDTH = 20


class Teller(Protocol):
    """Told what is being done, and how many bytes of it are."""

    def __call__(self, step: str, done: int, /) -> None: ...


@contextmanager
def progress(title: str) -> Iterator[Teller]:
    """A live line on a terminal; elsewhere each new step is printed once."""
    if sys.stderr.isatty():
        with _live(title) as tell:
            yield tell
        return
    told: set[str] = set()

    def plain(step: str, done: int) -> None:
        if step not in told:  # several ranks at a time tell their steps in turn
            told.add(step)
            try:
                print(f"{title}: {step}", file=sys.stderr, flush=True)
            except BrokenPipeError:
                # Nobody reads the progress any more; the work goes on, and Python's flush at exit finds no pipe.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())

    yield plain


@contextmanager
def steps(title: str) -> Iterator["Progress"]:
    """A live bar with the time that is left, on a terminal; elsewhere each new step is printed once."""
    if sys.stderr.isatty():
        with _live_bar(title) as count:
            yield count
        return
    with progress(title) as tell:
        yield lambda step, done, total, /: tell(step, 0)


@contextmanager
def _live_bar(title: str) -> Iterator["Progress"]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task, current = bar.add_task(title, total=None), ""

        def count(step: str, done: int, total: int) -> None:
            nonlocal current
            if step != current:
                current = step
                bar.reset(task, description=f"{escape(title)}: {escape(step)}", total=total)
            bar.update(task, completed=done, total=total)

        yield count


@contextmanager
def _live(title: str) -> Iterator[Teller]:
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title)

        def tell(step: str, done: int) -> None:
            size = f" ({human_bytes(done)})" if done else ""
            bar.update(task, description=f"{title}: {step}{size}")

        yield tell


def human_bytes(count: int) -> str:
    """Such as "90.9 MB"; powers of 1000."""
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"


def columns() -> int:
    """How wide a line of stdout may be: the terminal's width, 100 elsewhere."""
    return shutil.get_terminal_size((100, 24)).columns if _is_terminal() else 100


def _is_terminal() -> bool:
    return sys.stdout.isatty()


def paragraph(text: str, indent: str = "") -> None:
    """Print sentences, broken between words. indent: of the lines behind the first.

    On a terminal names that are longer than a line are broken at their joints as well.
    """
    width = columns()
    for line in textwrap.wrap(
        text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    ):
        if len(line) <= width or not _is_terminal():
            print(line)
            continue
        for index, part in enumerate(_folded(line, width - len(indent))):
            print(part if index == 0 else f"{indent}{part}")


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
    """Print a table of aligned columns. right: columns of numbers. A row of one cell is a heading across them all.

    On a terminal that is too narrow, the widest of the other columns is folded behind a `/`, a `.` or a blank.
    """
    every = [row for row in (header, *rows) if len(row) == len(header)]
    widths = [max(len(row[index]) for row in every) for index in range(len(header))]
    if _is_terminal():
        _narrow(widths, columns(), right)
    for row in (header, *rows):
        if len(row) < len(header):
            print(row[0])
            continue
        cells = [_folded(cell, width) for cell, width in zip(row, widths, strict=True)]
        for line in range(max(map(len, cells))):
            parts = (
                (each[line] if line < len(each) else "").rjust(width)
                if index in right
                else (each[line] if line < len(each) else "").ljust(width)
                for index, (each, width) in enumerate(zip(cells, widths, strict=True))
            )
            print("  ".join(parts).rstrip())


def _narrow(widths: list[int], allowed: int, right: Sequence[int]) -> None:
    """Take what is too much from the widest columns of text, down to 20 characters."""
    texts = [index for index in range(len(widths)) if index not in right]
    while texts and (too_much := sum(widths) + 2 * len(widths) - 2 - allowed) > 0:
        widest = max(texts, key=lambda index: widths[index])
        if widths[widest] <= _LEAST_WIDTH:
            return
        widths[widest] = max(_LEAST_WIDTH, widths[widest] - too_much)


def _folded(cell: str, width: int) -> list[str]:
    """A cell's lines: broken where words and names have their joints, and else where the column ends."""
    lines = [""]
    for part in re.split(r"(?<=[/. ])", cell):
        if len(lines[-1]) + len(part.rstrip()) > width and lines[-1]:
            lines.append("")
        while len(part.rstrip()) > width:
            lines[-1:] = [part[:width], ""]
            part = part[width:]
        lines[-1] += part
    return [line.rstrip() for line in lines]
