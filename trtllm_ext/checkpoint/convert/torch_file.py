"""Weights saved by torch.save, read without running any code from the file. Needs torch."""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from trtllm_ext.errors import CheckpointError


def open_torch_file(path: Path) -> Mapping[str, npt.NDArray]:
    """The tensors of a state dict by name, as views of the mapped file where torch can map it.

    Raises CheckpointError when torch is not installed, or the file is not a plain dict of tensors.
    """
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        raise CheckpointError(
            f"{path} can only be read with torch: install trtllm-ext[torch], or save the model as safetensors."
        ) from None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} cannot be read as a dict of tensors: {reason}") from None
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} holds a {type(state).__name__}, not a dict of tensors.")
    return {str(name): _to_numpy(torch, str(name), tensor, path) for name, tensor in state.items()}


def _to_numpy(torch: Any, name: str, tensor: Any, path: Path) -> npt.NDArray:
    if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
        raise CheckpointError(f"{path}: {name} is a {type(tensor).__name__}, not a dense tensor.")
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        values: npt.NDArray = tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    else:
        try:
            values = tensor.numpy()
        except TypeError:
            raise CheckpointError(
                f"{path}: {name} has the type {tensor.dtype}, which is not supported."
            ) from None
    return np.asarray(values)
