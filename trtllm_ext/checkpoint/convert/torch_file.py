"""Weights saved by torch.save, read without running any code from the file. Needs torch."""

from __future__ import annotations

import ctypes
import importlib
import mmap
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from trtllm_ext.errors import CheckpointError

# What a file of the format before torch 1.6 begins with: the pickled number torch.serialization.MAGIC_NUMBER.
_LEGACY_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")


class TorchFile(Mapping[str, npt.NDArray]):
    """The tensors of a state dict by name, as views of the mapped file.

    A file of the format before torch 1.6 cannot be mapped and is read into memory, all of it.
    Raises CheckpointError, on opening, when torch is not installed, or the file is not a plain dict of dense tensors
    of types known here.
    """

    def __init__(self, path: Path) -> None:
        try:
            torch = importlib.import_module("torch")
        except ImportError:
            raise CheckpointError(
                f"{path} can only be read with torch: pip install torch, or save the model as safetensors."
            ) from None
        self.path = path
        state = _load(torch, path)
        self._tensors = {str(name): _to_numpy(torch, str(name), item, path) for name, item in state.items()}
        self._mapped = _mapped_ranges(path)

    def __getitem__(self, name: str) -> npt.NDArray:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def release_pages(self, name: str) -> None:
        """As SafetensorsFile.release_pages; nothing happens to a tensor that is not in mapped pages of the file."""
        values = self._tensors[name]
        begin = -(-values.ctypes.data // mmap.PAGESIZE) * mmap.PAGESIZE
        last = sum((size - 1) * stride for size, stride in zip(values.shape, values.strides, strict=True))
        end = (values.ctypes.data + last + values.itemsize) // mmap.PAGESIZE * mmap.PAGESIZE
        # Anywhere else the call would wipe memory: only pages of the file itself come back as they were.
        if begin < end and any(low <= begin and end <= high for low, high in self._mapped):
            _madvise(begin, end - begin, mmap.MADV_DONTNEED)


class TorchShard(TorchFile):
    """One of several files of a model, which are all open at once: it has to be one that can be mapped.

    Raises CheckpointError as TorchFile, and for a file of the format before torch 1.6.
    """

    def __init__(self, path: Path) -> None:
        if _is_legacy(path):
            raise CheckpointError(
                f"{path} has the format of torch before 1.6, which can only be read as a whole, and the model's files "
                "would all be in memory at once. Save the weights as safetensors, or each file anew with torch.save."
            )
        super().__init__(path)


def _load(torch: Any, path: Path) -> dict[object, Any]:
    failures = (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError, OSError)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except failures as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} cannot be read as a dict of tensors: {reason}") from None
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} holds a {type(state).__name__}, not a dict of tensors.")
    return state


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _is_legacy(path: Path) -> bool:
    with path.open("rb") as file:
        return _LEGACY_MAGIC in file.read(32)


def _to_numpy(torch: Any, name: str, tensor: Any, path: Path) -> npt.NDArray:
    if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
        raise CheckpointError(f"{path}: {name} is a {type(tensor).__name__}, not a dense tensor.")
    tensor = tensor.detach()
    if tensor.is_quantized or "float8" in str(tensor.dtype):
        raise CheckpointError(
            f"{path}: {name} has the type {tensor.dtype}: the model is quantised. Dequantise it first: load it in "
            "bfloat16 and save it again."
        )
    try:
        if tensor.dtype == torch.bfloat16:
            return np.asarray(tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16))
        return np.asarray(tensor.numpy())
    except (TypeError, RuntimeError, NotImplementedError):
        raise CheckpointError(
            f"{path}: {name} has the type {tensor.dtype}, which is not supported."
        ) from None


def _mapped_ranges(path: Path) -> list[tuple[int, int]]:
    """Addresses at which this process maps the file; none where the system does not tell."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []
    real = str(path.resolve())
    found = [line.split(maxsplit=5) for line in lines if line.endswith(real)]
    return [
        (int(low, 16), int(high, 16))
        for low, _, high in (fields[0].partition("-") for fields in found if fields[-1] == real)
    ]


def _madvise(begin: int, length: int, advice: int) -> None:
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    madvise(begin, length, advice)
