"""Output for people on a terminal, plain lines for everything else. Results go to stdout, progress to stderr."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol


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


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
    """Print a table: drawn by rich on a terminal, aligned columns elsewhere. right: columns of numbers."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        drawn = Table(box=None, pad_edge=False)
        for index, name in enumerate(header):
            drawn.add_column(name, justify="right" if index in right else "left", overflow="fold")
        for row in rows:
            drawn.add_row(*(Text(cell) for cell in row))
        Console().print(drawn)
        return
    widths = [max(len(row[index]) for row in (header, *rows)) for index in range(len(header))]
    for row in (header, *rows):
        cells = (
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join(cells).rstrip())
