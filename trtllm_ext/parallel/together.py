"""Work that every rank does and any may fail at: all of them go on, or all raise the same sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from trtllm_ext.errors import RankError, TrtllmExtError
from trtllm_ext.parallel.communicator import Communicator
from trtllm_ext.parallel.ordered_sum import ranks_text

Result = TypeVar("Result")
_MOST_TOLD = 3


def together(
    communicator: Communicator, action: Callable[[], Result], note: Any = None
) -> tuple[Result, list[Any]]:
    """Call `action` on every rank; returns its result here, and every rank's note by rank.

    note: what to tell the other ranks beside how it went, of JSON's types; a function is given the result.
    Raises RankError on every rank, with the same sentence, when the action fails on one. When it fails on all of them
    for the same reason, which then is no matter of ranks, each raises its own error.
    """
    result, told, problem = None, None, None
    try:
        result = action()
        told = note(result) if callable(note) else note
    except Exception as error:
        problem = error
    reports = communicator.exchange({"problem": None if problem is None else text_of(problem), "note": told})
    failures = [report["problem"] for report in reports]
    if any(failure is not None for failure in failures):
        if problem is not None and isinstance(problem, TrtllmExtError) and set(failures) == {failures[0]}:
            raise problem
        raise RankError(by_rank(failures)) from problem
    return result, [report["note"] for report in reports]  # type: ignore[return-value]


def by_rank(texts: Sequence[str | None]) -> str:
    """["A.", None, "A."] -> "ranks 0, 2: A."; of many different texts the first few."""
    ranks: dict[str, list[int]] = {}
    for rank, text in enumerate(texts):
        if text is not None:
            ranks.setdefault(text, []).append(rank)
    told = [f"{ranks_text(group)}: {text}" for text, group in list(ranks.items())[:_MOST_TOLD]]
    more = len(ranks) - len(told)
    return " ".join(told) + (f" And {more} more." if more else "")


def text_of(problem: BaseException) -> str:
    """An error as a sentence: those that this package does not raise itself with the name of their type."""
    text = str(problem) if isinstance(problem, TrtllmExtError) else f"{type(problem).__name__}: {problem}"
    return text if text.endswith((".", ")")) else f"{text}."
