"""JSON objects read strictly: duplicate keys, NaN and anything but an object are refused."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from trtllm_ext.errors import TrtllmExtError

# A config or an envelope has kilobytes; reading more than this is reading the wrong file.
_LARGEST = 64 << 20


def read_json_object(path: Path, error: type[TrtllmExtError], way_out: str = "") -> dict[str, Any]:
    """The object in the file `path`; raises `error` with the reason when there is none.

    way_out: what to do about a file that holds no such object, for the end of the message.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise error(f"{path} has {path.stat().st_size} bytes: too large to be a JSON description.")
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise error(f"{path} does not exist.") from None
    except (OSError, UnicodeDecodeError) as problem:
        raise error(f"{path} cannot be read: {problem}.") from problem
    try:
        return parse_json_object(text, str(path), error)
    except error as problem:
        raise error(f"{problem} {way_out}".rstrip()) from problem


def parse_json_object(text: str, name: str, error: type[TrtllmExtError]) -> dict[str, Any]:
    """The object in `text`; `name` says where the text came from."""
    try:
        value = json.loads(
            text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant, parse_float=_finite
        )
    except (ValueError, RecursionError) as problem:
        raise error(f"{name} is not valid JSON: {problem}.") from problem
    if not isinstance(value, dict):
        raise error(f"{name} holds a JSON {type(value).__name__}, expected an object of names and values.")
    return value


def canonical_digest(value: Any) -> str:
    """sha256 of anything that JSON can hold in its canonical form: sorted keys, no spaces."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def to_json(value: dict[str, Any]) -> str:
    """Indented JSON text; refuses NaN and infinities, which JSON has no words for."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"the key {twice[0]!r} appears twice")
    return result


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")
