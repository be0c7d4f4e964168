"""Checkpoints of random weights, for examples, tests and benchmarks of any size."""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from trtllm_ext.checkpoint import ModelConfig, write_checkpoint
from trtllm_ext.checkpoint.dtypes import weight_dtype
from trtllm_ext.checkpoint.safetensors_writer import CHUNK_BYTES


def write_random_checkpoint(path: str | os.PathLike[str], config: ModelConfig, *, seed: int = 0) -> int:
    """Write a checkpoint directory of random weights; returns the bytes of its weight files.

    Matrices are normal with standard deviation 1 / sqrt(in_features), so that activations neither grow nor
    vanish; norm weights lie around 1; biases are small. The same config and seed give the same bytes.
    Memory: one chunk of 4 MiB at a time, whatever the size. Raises CheckpointError as `write_checkpoint` does.
    """

    def source(name: str, shape: tuple[int, ...]) -> Iterator[npt.NDArray]:
        return random_weight(name, shape, config.dtype, seed)

    return write_checkpoint(path, config, source)


def random_weight(name: str, shape: tuple[int, ...], dtype: str, seed: int) -> Iterator[npt.NDArray]:
    """The values of one weight, as flat pieces in row-major order."""
    generator = np.random.Generator(np.random.SFC64([seed, zlib.crc32(name.encode())]))
    if len(shape) == 2:
        mean, deviation = 0.0, 1.0 / math.sqrt(shape[1])
    else:
        mean, deviation = (0.0, 0.02) if name.endswith(".bias") else (1.0, 0.1)
    left, step = math.prod(shape), CHUNK_BYTES // 4
    while left:
        values = generator.standard_normal(min(left, step), dtype=np.float32)
        values *= np.float32(deviation)
        values += np.float32(mean)
        yield values.astype(weight_dtype(dtype), copy=False)
        left -= values.size
