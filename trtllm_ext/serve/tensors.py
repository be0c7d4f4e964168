"""What a client gives for a tensor, as an array: from bytes, or from a list of numbers. All errors are InputErrors."""

import struct
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from trtllm_ext.errors import InputError
from trtllm_ext.serve.datatypes import NUMPY_OF
from trtllm_ext.serve.runner import TensorSpec
from trtllm_ext.suggest import nearest

Array = np.ndarray[Any, Any]
# What JSON has for a kind of elements. Python takes true for a 1; this does not.
_KINDS: dict[str, tuple[str, set[type]]] = {
    "b": ("true and false", {bool}),
    "i": ("integers", {int}),
    "f": ("numbers", {int, float}),
}


def check_given(spec: TensorSpec, datatype: object, shape: object) -> tuple[int, ...]:
    """The shape, when type and shape are those of `spec`, and some run takes it."""
    if datatype != spec.datatype:
        raise InputError(f"input {spec.name!r} has datatype {_short(datatype)}; expected {spec.datatype!r}.")
    dims: tuple[Any, ...] = (
        tuple(shape) if isinstance(shape, Sequence) and not isinstance(shape, str) else (None,)
    )
    if any(type(dim) is not int or dim < 0 for dim in dims):
        raise InputError(f"input {spec.name!r} has shape {_short(shape)}; expected a list of sizes.")
    if len(dims) != len(spec.shape) or any(
        dim != wanted for dim, wanted in zip(dims, spec.shape, strict=True) if wanted >= 0
    ):
        raise InputError(f"input {spec.name!r} has shape {_short(list(dims))}; expected {list(spec.shape)}.")
    if spec.check_shape is not None:
        spec.check_shape(dims)
    return dims


def check_count(spec: TensorSpec, shape: tuple[int, ...], count: int) -> None:
    """Raise InputError unless a tensor of `shape` has so many elements."""
    if count != prod(shape):
        raise InputError(
            f"input {spec.name!r} of shape {list(shape)} needs {prod(shape)} elements, got {count}."
        )


def from_bytes(spec: TensorSpec, shape: tuple[int, ...], data: bytes | memoryview) -> Array:
    """An array of row-major little-endian bytes; a text has its length, 4 bytes, before it. No copy where aligned."""
    if spec.datatype == "BYTES":
        return _checked_count(spec, shape, _texts(spec, data, prod(shape)))
    dtype = NUMPY_OF[spec.datatype]
    expected = prod(shape) * dtype.itemsize
    if len(data) != expected:
        raise InputError(
            f"input {spec.name!r} of shape {list(shape)} and {spec.datatype} needs {expected} bytes, got {len(data)}."
        )
    array = np.frombuffer(data, dtype)
    if spec.datatype == "BOOL" and array.size and array.view(np.uint8).max() > 1:
        raise InputError(
            f"input {spec.name!r} holds the byte {array.view(np.uint8).max()}; BOOL is 0 or 1 a byte."
        )
    return (array if array.flags.aligned else array.copy()).reshape(shape)


def from_list(spec: TensorSpec, shape: tuple[int, ...], data: object) -> Array:
    """An array of a list of numbers, flat in row-major order or nested as the shape says."""
    if not isinstance(data, list):
        raise InputError(f"input {spec.name!r} has data {_short(data)}; expected a list.")
    if spec.datatype == "BYTES":
        return _checked_count(spec, shape, [_encoded(spec, text) for text in _flat(data, len(shape))])
    if data and not isinstance(data[0], list):
        check_count(spec, shape, len(data))
    dtype = NUMPY_OF[spec.datatype]
    try:
        array = np.array(data) if data else np.empty(0, dtype)
    except ValueError:
        raise InputError(
            f"input {spec.name!r} has lists of unequal lengths; expected shape {list(shape)}."
        ) from None
    if array.shape != shape and array.ndim != 1:
        raise InputError(
            f"input {spec.name!r} has lists of shape {list(array.shape)}; expected {list(shape)}."
        )
    _check_kind(spec, _flat(data, array.ndim))
    return _checked_count(spec, shape, _converted(spec, array, dtype))


def take_named(given: Iterable[tuple[object, Any]], specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
    """What was given for each input, by name: every one once, and nothing else."""
    taken: dict[str, Any] = {}
    for name, value in given:
        if not isinstance(name, str) or name not in specs:
            raise InputError(f"unknown input {_short(name)}. {nearest(str(name)[:80], specs)}")
        if name in taken:
            raise InputError(f"input {name!r} is given twice.")
        taken[name] = value
    if missing := [name for name in specs if name not in taken]:
        raise InputError(f"input {missing[0]!r} is missing; the model takes {', '.join(specs)}.")
    return taken


def check_outputs(names: Iterable[object], specs: Mapping[str, TensorSpec]) -> list[str]:
    """The outputs that a request asks for; all where it names none."""
    wanted = list(names)
    for name in wanted:
        if not isinstance(name, str) or name not in specs:
            raise InputError(f"unknown output {_short(name)}. {nearest(str(name)[:80], specs)}")
    return list(dict.fromkeys(map(str, wanted))) or list(specs)


def to_bytes(array: Array) -> bytes:
    """The bytes that `from_bytes` reads."""
    if array.dtype == np.object_:
        return b"".join(struct.pack("<I", len(text)) + text for text in array.ravel())
    return array.tobytes()


def _kind(spec: TensorSpec) -> str:
    if spec.datatype in ("FP32", "FP16", "BF16"):
        return "f"
    return "b" if spec.datatype == "BOOL" else "i"


def _check_kind(spec: TensorSpec, elements: list[Any]) -> None:
    words, allowed = _KINDS[_kind(spec)]
    if wrong := set(map(type, elements)) - allowed:
        first = next(each for each in elements if type(each) in wrong)
        raise InputError(f"input {spec.name!r} is {spec.datatype} and takes {words}, got {_short(first)}.")


def _converted(spec: TensorSpec, array: Array, dtype: np.dtype[Any]) -> Array:
    kind = _kind(spec)
    if kind == "i" and array.size:
        bounds = np.iinfo(dtype)
        if int(array.min()) < bounds.min or int(array.max()) > bounds.max:
            raise InputError(
                f"input {spec.name!r} holds {array.min()} to {array.max()}; {spec.datatype} holds {bounds.min} to "
                f"{bounds.max}."
            )
    with np.errstate(over="ignore"):
        converted = array.astype(np.float32).astype(dtype) if spec.datatype == "BF16" else array.astype(dtype)
    if kind == "f" and not np.isfinite(converted.astype(np.float32)).all():
        raise InputError(f"input {spec.name!r} holds a number that is too large for {spec.datatype}.")
    return converted


def _checked_count(spec: TensorSpec, shape: tuple[int, ...], values: "Array | list[bytes]") -> Array:
    count = len(values) if isinstance(values, list) else values.size
    check_count(spec, shape, count)
    if isinstance(values, list):
        texts = np.empty(count, np.object_)
        texts[:] = values
        return texts.reshape(shape)
    return values.reshape(shape)


def _texts(spec: TensorSpec, data: bytes | memoryview, most: int) -> list[bytes]:
    # One more than wanted is enough to be refused.
    texts: list[bytes] = []
    at, data = 0, bytes(data)
    while at < len(data) and len(texts) <= most:
        if at + 4 > len(data) or at + 4 + (size := int.from_bytes(data[at : at + 4], "little")) > len(data):
            raise InputError(
                f"input {spec.name!r} ends within an element; each has its length, 4 bytes, before it."
            )
        texts.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return texts


def _encoded(spec: TensorSpec, text: object) -> bytes:
    if not isinstance(text, str):
        raise InputError(f"input {spec.name!r} is BYTES and takes texts, got {_short(text)}.")
    return text.encode()


def _flat(data: list[Any], depth: int) -> list[Any]:
    for _ in range(depth - 1):
        data = [inner for item in data for inner in (item if isinstance(item, list) else [item])]
    return data


def _short(value: object) -> str:
    if isinstance(value, list | tuple):
        value = value[:9]
    elif isinstance(value, str | bytes):
        value = value[:80]
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
