"""Bodies of HTTP requests and responses: JSON, with tensors in it or as bytes behind it (Triton's binary data)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from trtllm_ext.errors import InputError
from trtllm_ext.serve.joining import Arrays
from trtllm_ext.serve.runner import TensorSpec
from trtllm_ext.serve.tensors import check_given, check_outputs, from_bytes, from_list, take_named, to_bytes

JSON_LENGTH_HEADER = "inference-header-content-length"


@dataclass
class Call:
    """A request that was read. binary: the names of those of its `outputs` that come as bytes."""

    id: str | None
    arrays: Arrays
    outputs: list[str]
    binary: set[str] = field(default_factory=set)


def read_body(
    body: bytes | bytearray,
    json_header: str | None,
    inputs: Mapping[str, TensorSpec],
    outputs: Mapping[str, TensorSpec],
) -> Call:
    """Read a request's body. json_header: the header that says how long its JSON is. Raises InputError."""
    view = memoryview(body)
    length = json_length(json_header, len(view))
    try:
        head = orjson.loads(view[:length])
    except orjson.JSONDecodeError as problem:
        raise InputError(f"the body is not JSON: {problem}.") from None
    if not isinstance(head, dict):
        raise InputError("the body is not a JSON object.")
    if inputs and head.get("inputs") is None:
        raise InputError(
            f'input {next(iter(inputs))!r} is missing: the body has no "inputs"; expected {_example(inputs)}.'
        )
    given = [(each.get("name"), each) for each in _objects(head, "inputs")]
    arrays = _arrays(given, view[length:], inputs)
    asked = _objects(head, "outputs")
    names = check_outputs([each.get("name") for each in asked], outputs)
    binary = _binary_outputs(head, asked, names)
    identity = head.get("id")
    if identity is not None and not isinstance(identity, str):
        raise InputError("id is not a text.")
    return Call(identity or None, arrays, names, binary)


def write_body(
    model: dict[str, str], call: Call, outputs: Arrays, specs: Mapping[str, TensorSpec]
) -> tuple[bytes, int]:
    """A response's body, and how long its JSON is; 0 where it is nothing else. model: its first entries."""
    described, behind = [], []
    for name in call.outputs:
        array = outputs[name]
        entry: dict[str, Any] = {"name": name, "datatype": specs[name].datatype, "shape": array.shape}
        if name in call.binary:
            behind.append(to_bytes(array))
            entry["parameters"] = {"binary_data_size": len(behind[-1])}
        else:
            entry["data"] = _listed(array)
        described.append(entry)
    head = orjson.dumps({**model, "outputs": described}, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join([head, *behind]), len(head)) if call.binary else (head, 0)


def json_length(text: str | None, size: int) -> int:
    """How much of a body of `size` is JSON. text: the header that says it, or None. Raises InputError."""
    if text is None:
        return size
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= size):
        raise InputError(
            f"Inference-Header-Content-Length is {text[:40]!r}; expected a number up to {size}, the body's size."
        )
    return int(text)


def _example(inputs: Mapping[str, TensorSpec]) -> str:
    entries = (
        f'{{"name": "{name}", "datatype": "{spec.datatype}", "shape": {[max(dim, 1) for dim in spec.shape]}, '
        f'"data": [...]}}'
        for name, spec in inputs.items()
    )
    return f'{{"inputs": [{", ".join(entries)}]}}'


def _objects(head: dict[str, Any], name: str) -> list[dict[str, Any]]:
    value = head.get(name) or []
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise InputError(f"{name} is not a list of JSON objects.")
    return value


def _parameters(entry: dict[str, Any]) -> dict[str, Any]:
    value = entry.get("parameters") or {}
    if not isinstance(value, dict):
        raise InputError("parameters are not a JSON object.")
    if "shared_memory_region" in value:
        raise InputError("this server takes no shared memory; send the tensor's data.")
    if value.get("classification"):
        raise InputError("this server does not classify; leave out the parameter 'classification'.")
    return value


def _arrays(
    given: list[tuple[Any, dict[str, Any]]], behind: memoryview, specs: Mapping[str, TensorSpec]
) -> Arrays:
    arrays, at = {}, 0
    for name, entry in take_named(given, specs).items():
        spec = specs[name]
        shape = check_given(spec, entry.get("datatype"), entry.get("shape"))
        size = _parameters(entry).get("binary_data_size")
        if size is None:
            arrays[name] = from_list(spec, shape, entry.get("data"))
            continue
        if type(size) is not int or not 0 <= size <= len(behind) - at:
            raise InputError(
                f"input {name!r} has binary_data_size {size!r:.40}; {len(behind) - at} bytes are left."
            )
        if "data" in entry:
            raise InputError(f"input {name!r} has both data and binary_data_size; give one of them.")
        arrays[name] = from_bytes(spec, shape, behind[at : at + size])
        at += size
    if at != len(behind):
        raise InputError(
            f"{len(behind) - at} bytes stand behind the JSON that no input has for its binary_data_size."
        )
    return arrays


def _binary_outputs(head: dict[str, Any], asked: list[dict[str, Any]], names: list[str]) -> set[str]:
    default = bool(_parameters(head).get("binary_data_output", False))
    chosen = {each["name"]: bool(_parameters(each).get("binary_data", default)) for each in asked}
    return {name for name in names if chosen.get(name, default)}


def _listed(array: "np.ndarray[Any, Any]") -> Any:
    """What JSON makes a flat list of; numbers that are not finite become null there."""
    if array.dtype == np.object_:
        return [text.decode(errors="replace") for text in array.ravel()]
    wide = array.astype(np.float32) if array.dtype.itemsize == 2 else array
    return np.ascontiguousarray(wide).ravel()
