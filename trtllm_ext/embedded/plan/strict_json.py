"""JSON that says exactly one thing: no duplicate keys, no NaN, no unknown fields, every type as expected."""

import json
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

from trtllm_ext.errors import EngineError

T = TypeVar("T")


def dumps(value: Any) -> bytes:
    """`value` as compact JSON in UTF-8; the same value always gives the same bytes."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def loads(text: bytes) -> Any:
    """Parse `text`. Raises EngineError for anything that is not plain, unambiguous JSON."""
    try:
        return json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except RecursionError:
        raise EngineError("the engine's header is nested too deeply.") from None
    except ValueError as error:  # JSON syntax, UTF-8, and numbers of absurd length
        raise EngineError(f"the engine's header is not valid JSON: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise EngineError(f"the engine's header has the key {twice!r} twice.")
    return fields


def _refuse_constant(name: str) -> NoReturn:
    raise EngineError(f"the engine's header has the value {name}, which is not JSON.")


class Fields:
    """The fields of one JSON object, taken one by one; `done()` refuses what is left.

    Every method raises EngineError when a field is missing or of another type than asked for.
    """

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise EngineError(f"the engine's header has {_brief(value)} at {where}, where an object belongs.")
        self._left = dict(value)
        self.where = where

    def __enter__(self) -> "Fields":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._left:
            raise EngineError(
                f"the engine's header has unknown keys at {self.where}: {', '.join(sorted(self._left))}. "
                "Read it with the version of trtllm_ext that built it."
            )

    def take(self, key: str) -> Any:
        """The field, whatever it is."""
        try:
            return self._left.pop(key)
        except KeyError:
            raise EngineError(f"the engine's header lacks {key!r} at {self.where}.") from None

    def text(self, key: str) -> str:
        """A string."""
        value = self.take(key)
        if not isinstance(value, str):
            self.refuse(key, value, "a string")
        return value

    def flag(self, key: str) -> bool:
        """True or false."""
        value = self.take(key)
        if not isinstance(value, bool):
            self.refuse(key, value, "true or false")
        return value

    def integer(self, key: str, low: int = 0, high: int = 2**63 - 1) -> int:
        """An integer in [low, high]."""
        value = self.take(key)
        if not _is_integer(value, low, high):
            self.refuse(key, value, f"an integer in [{low}, {high}]")
        return int(value)

    def integers(self, key: str, low: int = 0, high: int = 2**63 - 1) -> tuple[int, ...]:
        """A list of integers in [low, high]."""
        values = self.sequence(key)
        for value in values:
            if not _is_integer(value, low, high):
                self.refuse(key, value, f"a list of integers in [{low}, {high}]")
        return tuple(values)

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings."""
        values = self.sequence(key)
        for value in values:
            if not isinstance(value, str):
                self.refuse(key, value, "a list of strings")
        return tuple(values)

    def sequence(self, key: str) -> Sequence[Any]:
        """A list of anything."""
        value = self.take(key)
        if not isinstance(value, list):
            self.refuse(key, value, "a list")
        return value

    def records(self, key: str, read: "Callable[[Fields], T]") -> tuple[T, ...]:
        """A list of objects, each read by `read`, which must take all its fields."""
        found = []
        for index, value in enumerate(self.sequence(key)):
            with Fields(value, f"{self.where}.{key}[{index}]") as fields:
                found.append(read(fields))
        return tuple(found)

    def refuse(self, key: str, value: Any, expected: str) -> NoReturn:
        """Raise EngineError: `value` stands where `expected` belongs."""
        raise EngineError(
            f"the engine's header has {_brief(value)} at {self.where}.{key}, where {expected} belongs."
        )


def _is_integer(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _brief(value: Any) -> str:
    text = json.dumps(value) if not isinstance(value, dict | list) else f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."
