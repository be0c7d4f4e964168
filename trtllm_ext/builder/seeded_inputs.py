"""Inputs of a model that nobody has given: shapes that its engine takes, and values from a seeded generator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from trtllm_ext.runtime.dtypes import NUMPY_DTYPES, TORCH_DTYPES
from trtllm_ext.runtime.envelope import TensorSummary

Array = np.ndarray[Any, Any]

# Sizes of an input by the names of dimensions: enough for every layer to have something to mix, and quickly done.
_LARGEST = {"batch_size": 2}
_LARGEST_OTHER = 8
_DTYPES = {TORCH_DTYPES[name]: dtype for name, dtype in NUMPY_DTYPES.items()}
ID_BOUNDS = {"input_ids": "vocab_size", "token_type_ids": "type_vocab_size"}


def input_values(
    tensor: TensorSummary, shape: tuple[int, ...], sizes: Mapping[str, Any], generator: np.random.Generator
) -> Array:
    """Values that an input takes, in a shape: normal numbers, ids that tables have, a mask of ones.

    sizes: the model's config, whose vocab_size and type_vocab_size bound ids.
    """
    dtype = _DTYPES[tensor.dtype]
    if dtype.kind in "iu" and tensor.name in ID_BOUNDS:
        return generator.integers(0, sizes.get(ID_BOUNDS[tensor.name]) or 1, shape).astype(dtype)
    if dtype.kind in "iub":
        return np.ones(shape, dtype)
    return generator.standard_normal(shape, dtype=np.float32).astype(dtype)


def smaller_shape(tensor: TensorSummary) -> tuple[int, ...]:
    """The first profile's optimum, but of at most 2 sentences and 8 tokens where the profile allows."""
    if not tensor.profiles:
        return tensor.shape
    least, opt, most = tensor.profiles[0]
    names = tensor.dim_names or ("",) * len(opt)
    wanted = (
        size if low == high else min(size, _LARGEST.get(name, _LARGEST_OTHER))
        for name, low, size, high in zip(names, least, opt, most, strict=True)
    )
    return tuple(max(low, size) for low, size in zip(least, wanted, strict=True))
