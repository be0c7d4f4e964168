"""Checkpoints of random weights, for examples, tests and benchmarks of any size."""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from trtllm_ext.checkpoint import Contract, ModelConfig, write_checkpoint
from trtllm_ext.checkpoint.dtypes import weight_dtype
from trtllm_ext.checkpoint.hyper_connections import initial_weights
from trtllm_ext.checkpoint.safetensors_writer import CHUNK_BYTES
from trtllm_ext.checkpoint.weights import ATTENTION_NORMS, feed_forward_norm_names

# Around 1, ReZero's activations would grow with every layer: it has no norm.
_GATE = 0.3


def write_random_checkpoint(path: str | os.PathLike[str], config: ModelConfig, *, seed: int = 0) -> int:
    """Write a checkpoint directory of random weights; returns the bytes of its weight files.

    Matrices are normal with standard deviation 1 / sqrt(in_features), so that activations neither grow nor
    vanish; norms multiply by around 1, gates by less; biases are small. Hyper-connections lie around their first
    values.
    The same config and seed give the same bytes.
    Memory: one chunk of 4 MiB at a time, whatever the size. Raises CheckpointError as `write_checkpoint` does.
    """
    offsets = _weight_offsets(config.contract)

    def source(name: str, shape: tuple[int, ...]) -> Iterator[npt.NDArray]:
        if "_connections." in name:
            return iter([_connection_weight(name, config, seed)])
        mean = _GATE if name.endswith("_scale.weight") else 1.0 - offsets.get(name.split(".")[-2], 0.0)
        return random_weight(name, shape, config.dtype, seed, mean=mean)

    return write_checkpoint(path, config, source)


def random_weight(
    name: str, shape: tuple[int, ...], dtype: str, seed: int, *, mean: float = 1.0
) -> Iterator[npt.NDArray]:
    """The values of one weight, as flat pieces in row-major order. mean: of a norm's or gate's."""
    generator = _generator(name, seed)
    if name.endswith(".bias"):
        mean, deviation = 0.0, 0.02
    elif len(shape) > 1:
        mean, deviation = 0.0, 1.0 / math.sqrt(shape[-1])
    else:
        deviation = 0.1
    left, step = math.prod(shape), CHUNK_BYTES // 4
    while left:
        values = generator.standard_normal(min(left, step), dtype=np.float32)
        values *= np.float32(deviation)
        values += np.float32(mean)
        yield values.astype(weight_dtype(dtype), copy=False)
        left -= values.size


def _generator(name: str, seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64([seed, zlib.crc32(name.encode())]))


def _weight_offsets(contract: Contract) -> dict[str, float]:
    """Norm's name in a checkpoint -> its weight_offset."""
    form = contract.feed_forward
    names = feed_forward_norm_names(form.residual)
    norms = dict(zip(names, (form.residual.norm, form.residual.post_norm), strict=True))
    if contract.attention is not None:
        residual = contract.attention.residual
        norms |= dict(zip(ATTENTION_NORMS, (residual.norm, residual.post_norm), strict=True))
    norms |= {"inner_layernorm": form.inner_norm, "ln_f": contract.final_norm}
    return {name: norm.weight_offset for name, norm in norms.items() if norm is not None}


def _connection_weight(name: str, config: ModelConfig, seed: int) -> npt.NDArray:
    """A weight of hyper-connections around its first value, far enough from it for each to have an effect."""
    contract = config.contract.feed_forward.residual.hyper_connections
    assert contract is not None
    index, last = int(name.split(".")[2]), name.split(".")[-1]
    first = initial_weights(
        contract.kind, contract.num_streams, config.hidden_size, index, norm=contract.norm
    )[last]
    noise = _generator(name, seed).standard_normal(first.shape, dtype=np.float32)
    if first.ndim > 1 and first.shape[-1] >= config.hidden_size:
        return (noise / math.sqrt(first.shape[-1])).astype(weight_dtype(config.dtype))
    # Beyond 3, softmax and sigmoid would hide the noise.
    return (np.clip(first, -3.0, 3.0) + 0.1 * noise).astype(weight_dtype(config.dtype))
