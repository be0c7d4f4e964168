"""Strict reading of JSON: each function gives what it is asked for, or raises ValueError with what it found."""

from collections.abc import Set
from typing import Any


def as_int(data: Any, low: int, high: int) -> int:
    """`data` if it is an integer from `low` to `high`. Raises ValueError if not."""
    if type(data) is not int or not low <= data <= high:
        raise ValueError(f"expected an integer from {low} to {high}, found {data!r:.80}")
    return data


def as_list(data: Any, fewest: int = 0, most: int | None = None) -> list[Any]:
    """`data` if it is a list of `fewest` items or more, and of `most` at most. Raises ValueError if not."""
    if not isinstance(data, list) or len(data) < fewest or (most is not None and len(data) > most):
        count = "" if most is None else f" of {most}" if fewest == most else f" of {fewest} to {most}"
        raise ValueError(f"expected a list{count}, found {data!r:.200}")
    return data


def as_object(data: Any, keys: Set[str]) -> dict[str, Any]:
    """`data` if it is an object with just these keys. Raises ValueError if not."""
    if not isinstance(data, dict) or set(data) != keys:
        raise ValueError(f"expected an object with {sorted(keys)}, found {data!r:.200}")
    return data
