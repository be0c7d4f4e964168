"""Strict reading of JSON into frozen dataclasses: what is unknown, missing or mistyped is refused by name."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from typing import Any, Literal, TypeVar

from trtllm_ext.errors import ConfigError
from trtllm_ext.suggest import nearest

T = TypeVar("T")


def parse(kind: type[T], data: object, where: str) -> T:
    """Make a dataclass of `kind` from JSON data that must hold exactly its fields.

    where: how an error message calls the place, such as 'contract.embedding'.
    Raises ConfigError naming what is unknown, missing, of the wrong type, or outside a field's allowed values.
    """
    if not isinstance(data, dict):
        raise ConfigError(f"{where} is {_show(data)}, expected an object.")
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for name in data:
        if name not in names:
            raise ConfigError(f"{where} has the unknown field {name!r}. {nearest(name, names)}")
    for name in names:
        if name not in data:
            raise ConfigError(f"{where} lacks the field {name!r}; it has {', '.join(data) or 'none'}.")
    hints = _hints(kind)  # type: ignore[arg-type]  # classes are hashable, whatever the checker says
    values = {name: _value(hints[name], data[name], f"{where}.{name}") for name in names}
    try:
        return kind(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


@functools.cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def check(hint: Any, value: object, where: str) -> Any:
    """`value` if it fits the annotation `hint`; raises ConfigError as `parse` does."""
    return _value(hint, value, where)


def _value(hint: Any, value: object, where: str) -> Any:
    origin = typing.get_origin(hint)
    arguments = typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (hint,) = (argument for argument in arguments if argument is not type(None))
        return _value(hint, value, where)
    if origin is Literal:
        if type(value) is not type(arguments[0]) or value not in arguments:
            raise ConfigError(f"{where}={_show(value)} is not known. {nearest(value, arguments)}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where}={_show(value)} is not a list.")
        return tuple(_value(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if dataclasses.is_dataclass(hint):
        return parse(typing.cast(type, hint), value, where)
    if hint is float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ConfigError(f"{where}={_show(value)} is not a finite number.")
        return float(value)
    if type(value) is not hint:
        raise ConfigError(f"{where}={_show(value)} is not of type {hint.__name__}.")
    return value


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
