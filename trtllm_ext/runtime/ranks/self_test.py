"""The known answer of an engine of several ranks: an input and what its ranks gave for it when they were built.

`self_test.npz` stands beside the engines. Arrays lie in it as plain bytes with their types named in a header, so that
types that numpy has no name for (bfloat16) come back, and nothing executable is ever read.
"""

import json
import math
import threading
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trtllm_ext.errors import EngineError
from trtllm_ext.runtime.dtypes import NUMPY_DTYPES, TORCH_DTYPES

SELF_TEST_NAME = "self_test.npz"
FORMAT = "trtllm_ext-self-test"
FORMAT_VERSION = 1
_HEADER = "header"
_KINDS = ("inputs", "outputs")
# The type as users write it -> numpy's.
_DTYPES = {TORCH_DTYPES[name]: dtype for name, dtype in NUMPY_DTYPES.items()}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

# Ranks may be threads. numpy parses the head of an array with `ast`, and Python 3.11's fails now and then where two
# threads parse at once: SystemError, AST constructor recursion depth mismatch.
_ONE_READER = threading.Lock()

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class SelfTest:
    """An input of an engine and the output that it gave, by name. build_id: of the build they belong to."""

    build_id: str
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]


def write_self_test(directory: Path, known: SelfTest) -> None:
    """Write `self_test.npz` into `directory`. Raises OSError; ValueError for a type that no engine has."""
    tensors = [
        (kind, name, np.asarray(array, order="C"))
        for kind in _KINDS
        for name, array in getattr(known, kind).items()
    ]
    described = [
        {"kind": kind, "name": name, "dtype": _dtype_name(name, array), "shape": list(array.shape)}
        for kind, name, array in tensors
    ]
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "build_id": known.build_id,
        "tensors": described,
    }
    arrays = {_HEADER: np.frombuffer(json.dumps(header).encode(), np.uint8)}
    for index, (_, _, array) in enumerate(tensors):
        arrays[f"tensor{index}"] = np.frombuffer(array.tobytes(), np.uint8)
    np.savez(directory / SELF_TEST_NAME, **arrays)  # type: ignore[arg-type]


def read_self_test(directory: Path, build_id: str) -> SelfTest:
    """Read `self_test.npz` of an engine directory; the arrays are read-only.

    build_id: the one that the directory's config.json has.
    Raises EngineError when the file is missing, damaged, or of another build.
    """
    path = directory / SELF_TEST_NAME
    try:
        with _ONE_READER, np.load(path, allow_pickle=False) as archive:
            header = json.loads(archive[_HEADER].tobytes())
            if (header["format"], header["format_version"]) != (FORMAT, FORMAT_VERSION):
                raise ValueError(f"its format is {header['format']!r:.40} {header['format_version']!r:.20}")
            known = SelfTest(str(header["build_id"]), {}, {})
            for index, told in enumerate(header["tensors"]):
                _put(known, told, archive[f"tensor{index}"])
    except FileNotFoundError:
        raise EngineError(
            f"{path} does not exist, and an engine of several ranks is tried with its known answer when it is loaded. "
            f"Build the engine again (`trtllm-ext build --from-engine` does so as it was), or load it without "
            f"(self_test=False, --no_self_test)."
        ) from None
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
    ) as e:
        reason = str(e).partition("\n")[0] or "damaged"
        raise EngineError(
            f"{path} cannot be read ({reason}). Copy it again, or build the engine again (`trtllm-ext build "
            f"--from-engine` does so as it was)."
        ) from e
    if known.build_id != build_id:
        raise EngineError(
            f"{path} belongs to the build {known.build_id}, the engine to {build_id}. Copy all files of one build, or "
            f"build the engine again."
        )
    return known


def _put(known: SelfTest, told: Mapping[str, Any], data: Array) -> None:
    if told["kind"] not in _KINDS or told["dtype"] not in _DTYPES:
        raise ValueError(f"it describes a tensor as {dict(told)!r:.80}")
    dtype, shape = _DTYPES[told["dtype"]], tuple(told["shape"])
    if data.dtype != np.uint8 or data.nbytes != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{told['name']!r} has {data.nbytes} bytes, which is not {told['dtype']} {shape}")
    array = np.frombuffer(data.tobytes(), dtype).reshape(shape)
    getattr(known, told["kind"])[told["name"]] = array


def _dtype_name(name: str, array: Array) -> str:
    if array.dtype not in _NAMES:
        raise ValueError(f"{name!r} has the type {array.dtype}, which no engine has")
    return _NAMES[array.dtype]
