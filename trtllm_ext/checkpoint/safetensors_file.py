"""Reading a safetensors file as zero-copy views, after checking all of its header.

Format: 8 bytes little-endian header length, a JSON header {name: {dtype, shape, data_offsets}}, the data.
The safetensors library reads the header first, so whatever it refuses is refused here too; the views are our
own because it has no bfloat16 in numpy and copies what it returns.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from trtllm_ext.errors import CheckpointError
from trtllm_ext.runtime.json_files import parse_json_object

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
NUMPY_DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}


class SafetensorsFile(Mapping[str, npt.NDArray]):
    """The tensors of a file by name, in the order of their data: read-only views of its mapped pages, never copies.

    A foreign file may place a tensor at any byte: a view's flags.aligned tells, `aligned` makes it fit for others.
    The file stays mapped as long as this object or one of the views lives. `metadata` holds the header's
    free-form strings. Raises CheckpointError, on opening, for anything but a whole and valid file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata: dict[str, str] = {}
        self._places: dict[str, tuple[np.dtype, tuple[int, ...], int]] = {}
        try:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                if size < 8:
                    raise CheckpointError(f"{path} has {size} bytes and is not a safetensors file.")
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            with safe_open(str(path), framework="numpy"):
                pass
        except SafetensorError as error:
            raise CheckpointError(f"{path} is damaged or not a safetensors file: {error}.") from None
        except FileNotFoundError:
            raise CheckpointError(f"{path} does not exist.") from None
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from None
        self._read_header(size)

    def _read_header(self, size: int) -> None:
        length = int.from_bytes(self._map[:8], "little")
        if length > min(MAX_HEADER_BYTES, size - 8):
            raise CheckpointError(f"{self.path} is damaged: a header of {length} bytes in a file of {size}.")
        try:
            text = self._map[8 : 8 + length].decode("utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{self.path} is damaged: its header is not text: {error}.") from None
        header = parse_json_object(text, f"the header of {self.path}", CheckpointError)
        metadata = header.pop("__metadata__", None) or {}
        entries = [self._entry(name, entry) for name, entry in header.items()]
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise CheckpointError(f"{self.path} is damaged: its metadata does not consist of strings.")
        self.metadata = metadata
        end = 0
        for name, dtype, shape, begin, stop in sorted(entries, key=lambda entry: (entry[3], entry[4])):
            if begin != end or stop - begin != math.prod(shape) * dtype.itemsize:
                raise CheckpointError(
                    f"{self.path} is damaged: {name} of type {dtype.name} and shape {shape} cannot lie in bytes "
                    f"{begin}..{stop} after byte {end}."
                )
            self._places[name] = (dtype, shape, 8 + length + begin)
            end = stop
        if end != size - 8 - length:
            raise CheckpointError(
                f"{self.path} is damaged: its tensors end at byte {8 + length + end}, the file at byte {size}."
            )

    def _entry(self, name: str, entry: Any) -> tuple[str, np.dtype, tuple[int, ...], int, int]:
        try:
            shape = entry["shape"]
            begin, end = entry["data_offsets"]
            kind = entry["dtype"]
            if not all(type(n) is int and n >= 0 for n in (*shape, begin, end)) or not isinstance(kind, str):
                raise ValueError
        except (TypeError, KeyError, ValueError):
            raise CheckpointError(f"{self.path} is damaged: {name!r} has no valid header entry.") from None
        if kind.startswith(("F8_", "F6_", "F4")):
            raise CheckpointError(
                f"{self.path}: {name} has the type {kind}: the model is quantised. Dequantise it first: load it in "
                "bfloat16 and save it again."
            )
        if kind not in NUMPY_DTYPES:
            raise CheckpointError(
                f"{self.path}: {name} has the type {kind}, which is not supported; "
                f"supported are {', '.join(NUMPY_DTYPES)}."
            )
        return name, NUMPY_DTYPES[kind], tuple(shape), begin, end

    def __getitem__(self, name: str) -> npt.NDArray:
        dtype, shape, offset = self._places[name]
        count = math.prod(shape)
        if count == 0:
            return np.empty(shape, dtype)
        return np.frombuffer(self._map, dtype, count, offset).reshape(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def release_pages(self, name: str) -> None:
        """Let the system take back the pages of one tensor in this process; they are read again when touched."""
        dtype, shape, offset = self._places[name]
        begin = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE
        length = offset + math.prod(shape) * dtype.itemsize - begin
        if length > 0:
            self._map.madvise(mmap.MADV_DONTNEED, begin, length)


def aligned(values: npt.NDArray) -> npt.NDArray:
    """The same array where its elements lie at multiples of their size, else a read-only copy where they do."""
    if values.flags.aligned:
        return values
    copy = values.copy()
    copy.flags.writeable = False
    return copy
