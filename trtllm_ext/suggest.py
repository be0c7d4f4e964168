"""Hints that end an error message: what a mistyped name may have meant, which sizes would do."""

import difflib
from collections.abc import Iterable
from itertools import islice

# How many divisors a message lists, and how far it looks for them: beyond are more ranks than anyone has.
_DIVISORS, _LARGEST_DIVISOR = 12, 1024


def closest(name: object, known: Iterable[object]) -> list[str]:
    """The up to three known names that are close to `name`, the closest first."""
    return difflib.get_close_matches(str(name), [str(item) for item in known], n=3, cutoff=0.5)


def did_you_mean(name: object, known: Iterable[object]) -> str:
    """A question with the up to three known names closest to `name`; empty when none is close."""
    close = closest(name, known)
    return f"Did you mean {' or '.join(close)}?" if close else ""


def nearest(name: object, known: Iterable[object]) -> str:
    """`did_you_mean`, or all known names when none is close."""
    names = [str(item) for item in known]
    return did_you_mean(name, names) or f"Known: {', '.join(names)}."


def divisors(size: int) -> str:
    """The first divisors of `size`, of 1 or more: '1, 2, 4, 5, ...'."""
    candidates = range(1, min(size, _LARGEST_DIVISOR) + 1)
    found = list(islice((number for number in candidates if size % number == 0), _DIVISORS))
    return ", ".join([*map(str, found), *(["..."] if found[-1] != size else [])])
