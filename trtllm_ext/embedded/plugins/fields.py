"""Fields: the named values that a plugin is made from, and that an engine keeps of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, overload

import ml_dtypes
import numpy as np

from trtllm_ext.embedded.enums import PluginFieldType
from trtllm_ext.embedded.types import index_of, text_of

# How an element is given back. DIMS, FP8 and the 4-bit types come as bytes; TensorRT gives nothing back for them.
ELEMENT: dict[PluginFieldType, np.dtype[Any]] = {
    PluginFieldType.FLOAT16: np.dtype(np.float16),
    PluginFieldType.FLOAT32: np.dtype(np.float32),
    PluginFieldType.FLOAT64: np.dtype(np.float64),
    PluginFieldType.INT8: np.dtype(np.int8),
    PluginFieldType.INT16: np.dtype(np.int16),
    PluginFieldType.INT32: np.dtype(np.int32),
    PluginFieldType.INT64: np.dtype(np.int64),
    PluginFieldType.BF16: np.dtype(ml_dtypes.bfloat16),
    **dict.fromkeys(
        (
            PluginFieldType.CHAR,
            PluginFieldType.UNKNOWN,
            PluginFieldType.DIMS,
            PluginFieldType.FP8,
            PluginFieldType.INT4,
            PluginFieldType.FP4,
        ),
        np.dtype(np.int8),
    ),
}
# Types whose elements may come in units of their own, told as the bytes that they are.
_BYTES = frozenset(kind for kind, element in ELEMENT.items() if element.itemsize == 1)


class PluginField:
    """A named value: `data` is any buffer, kept and not copied; `type` says what its elements are."""

    __slots__ = ("_data", "_name", "size", "type")

    def __init__(
        self, name: str | None = "", data: Any = None, type: PluginFieldType = PluginFieldType.UNKNOWN
    ) -> None:
        if not isinstance(type, PluginFieldType):
            raise TypeError(f"the type of a field is a PluginFieldType, not {type!r}")
        self.name = name  # type: ignore[assignment]  # TensorRT takes None for it
        self.type = type
        self.size = 0
        self._data: Any = b""
        if data is not None:
            self.data = data

    @property
    def name(self) -> str:
        """The name."""
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        self._name = text_of("" if name is None else name, "the name of a field")

    @property
    def data(self) -> np.ndarray[Any, Any]:
        """The elements, 1-D: int8 for characters and bytes, else of the field's type.

        Raises ValueError if the buffer has elements of another width than the type.
        """
        element = ELEMENT[self.type]
        return np.frombuffer(self._raw(), element).copy()

    @data.setter
    def data(self, data: Any) -> None:
        try:
            view = memoryview(data) if not isinstance(data, np.ndarray) else data
        except TypeError:
            raise TypeError(
                f"the data of field {self.name!r} is a buffer such as bytes or a numpy array, not {data!r:.80}; "
                "encode text first"
            ) from None
        self._data = data
        self.size = view.size if isinstance(view, np.ndarray) else view.nbytes // view.itemsize

    def _raw(self) -> bytes:
        """The bytes of the elements."""
        raw = self._data.tobytes() if isinstance(self._data, np.ndarray) else bytes(self._data)
        width = ELEMENT[self.type].itemsize
        if self.type not in _BYTES and len(raw) != self.size * width:
            raise ValueError(
                f"field {self.name!r} is declared {self.type.name}, of {width} bytes an element, but its {self.size} "
                f"elements take {len(raw)} bytes; convert the data, or declare its own type"
            )
        return raw

    def __repr__(self) -> str:
        return f"<PluginField {self.name!r}: {self.size} {self.type.name}>"


class PluginFieldCollection:
    """A list of fields."""

    def __init__(self, fields: Iterable[PluginField] = ()) -> None:
        self._fields = [_checked(field) for field in fields]

    def append(self, x: PluginField) -> None:
        """Add a field at the end."""
        self._fields.append(_checked(x))

    def clear(self) -> None:
        """Remove all fields."""
        self._fields.clear()

    def extend(self, L: Iterable[PluginField]) -> None:
        """Add fields at the end."""
        self._fields.extend([_checked(field) for field in L])

    def insert(self, i: int, x: PluginField) -> None:
        """Add a field before number `i`."""
        self._fields.insert(i, _checked(x))

    def pop(self, i: int = -1) -> PluginField:
        """Remove and return field `i`, by default the last."""
        return self._fields.pop(i)

    def __len__(self) -> int:
        return len(self._fields)

    def __bool__(self) -> bool:
        return bool(self._fields)

    def __iter__(self) -> Iterator[PluginField]:
        return iter(self._fields)

    @overload
    def __getitem__(self, s: int) -> PluginField: ...
    @overload
    def __getitem__(self, s: slice) -> PluginFieldCollection: ...
    def __getitem__(self, s: int | slice) -> PluginField | PluginFieldCollection:
        return PluginFieldCollection(self._fields[s]) if isinstance(s, slice) else self._fields[s]

    def __setitem__(self, i: int | slice, x: PluginField | Iterable[PluginField]) -> None:
        if isinstance(i, slice):
            self._fields[i] = PluginFieldCollection(x)._fields  # type: ignore[arg-type]  # checked one by one
        else:
            self._fields[i] = _checked(x)

    def __delitem__(self, i: int | slice) -> None:
        del self._fields[i]


class PluginFieldCollection_:  # noqa: N801
    """Fields as a creator is given them: to be read, not changed."""

    def __init__(self, fields: Iterable[PluginField] = ()) -> None:
        self._fields = [_checked(field) for field in fields]

    def __len__(self) -> int:
        return len(self._fields)

    def __iter__(self) -> Iterator[PluginField]:
        return iter(self._fields)

    @overload
    def __getitem__(self, index: int) -> PluginField: ...
    @overload
    def __getitem__(self, index: slice) -> list[PluginField]: ...
    def __getitem__(self, index: int | slice) -> PluginField | list[PluginField]:
        try:
            return self._fields[index if isinstance(index, slice) else index_of(index, "index")]
        except IndexError:
            raise IndexError(f"Out of bounds: index {index} of {len(self)} fields") from None


def _checked(field: Any) -> PluginField:
    if not isinstance(field, PluginField):
        raise TypeError(f"a collection holds PluginFields, not {field!r}")
    return field
