"""Frequencies and tables of rotary position embeddings, as numpy arrays.

Formula: Su et al., "RoFormer", 2021: pair i of a head of size dim turns by position * theta^(-2i/dim).
Two layouts of a table: `sin|cos` is (1, num_pos, dim), the sines of a position in front of its cosines; `fused` is
(1, num_pos * dim) with cosine and sine of each pair side by side, which attention kernels read.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trtllm_ext.errors import ConfigError
from trtllm_ext.graph.functional.enumerations import RotaryScalingType

Array = np.ndarray[Any, Any]


def inverse_frequencies(dim: int, theta: float, dtype: Any = np.float32) -> Array:
    """theta^(-2i/dim) for each pair: (dim / 2,)."""
    powers: Array = (theta ** (np.arange(0, dim, 2) / dim)).astype(dtype)
    return 1.0 / powers


def angles(positions: Array, frequencies: Array) -> Array:
    """position * frequency, (positions, pairs), in the type of both."""
    return np.multiply.outer(positions, frequencies)


def sin_cos(angle: Array) -> Array:
    """The table `sin|cos` (1, positions, 2 * pairs) of angles (positions, pairs)."""
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)[np.newaxis]


def fused(angle: Array, scale: float = 1.0) -> Array:
    """The table `fused` (1, positions * pairs * 2) of angles (positions, pairs)."""
    table = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    return table.reshape(1, -1) if scale == 1.0 else (table * scale).astype(angle.dtype).reshape(1, -1)


def llama3_scaling(inv_freqs: Array, config: Mapping[str, Any]) -> Array:
    """Frequencies after Llama 3.1's rule: long waves are divided by `factor`, short ones kept, between them mixed.

    config: factor, low_freq_factor, high_freq_factor, original_max_position_embeddings (8, 1, 4, 8192 by default).
    Raises ConfigError when the two frequency factors are equal.
    """
    factor = config.get("factor", 8.0)
    low, high = config.get("low_freq_factor", 1.0), config.get("high_freq_factor", 4.0)
    context = config.get("original_max_position_embeddings", 8192)
    if low == high:
        raise ConfigError(
            f"low_freq_factor and high_freq_factor are both {low}; llama3 scaling needs a band between them."
        )
    waves = 2 * math.pi / inv_freqs
    kept = (context / waves - low) / (high - low)
    mixed = (1 - kept) * inv_freqs / factor + kept * inv_freqs
    scaled = np.where(waves > context / low, inv_freqs / factor, mixed)
    return np.where(waves < context / high, inv_freqs, scaled).astype(inv_freqs.dtype)


def scaled_frequencies(
    dim: int,
    theta: float,
    scale: float,
    scale_type: RotaryScalingType,
    config: Mapping[str, Any] | None,
    dtype: Any,
) -> Array:
    """The frequencies after one of the scaling rules none, linear, dynamic (by `config["alpha"]`) and llama3."""
    if scale_type == RotaryScalingType.llama3:
        if config is None:
            raise ConfigError("llama3 scaling needs rope_scaling_config, the model's rope_scaling.")
        return llama3_scaling(inverse_frequencies(dim, theta, dtype), config)
    if scale_type == RotaryScalingType.dynamic:
        if config is None or config.get("alpha") is None:
            raise ConfigError("dynamic scaling needs rope_scaling_config with the key 'alpha'.")
        return inverse_frequencies(dim, theta * config["alpha"] ** (dim / (dim - 2)), dtype)
    multiplier = 1.0 / scale if scale_type == RotaryScalingType.linear else scale
    result: Array = (multiplier * inverse_frequencies(dim, theta, dtype)).astype(dtype)
    return result


def cogvlm_positions(num_pos: int, vision_start: int, vision_length: int, dtype: Any) -> Array:
    """Positions of a text with an image of `vision_length` tokens, which all count as one position."""
    return np.concatenate(
        [
            np.arange(vision_start + 1, dtype=dtype),
            np.full(vision_length, vision_start + 1, dtype=dtype),
            np.arange(vision_start + 2, num_pos - (vision_length - 1), dtype=dtype),
        ]
    )


def long_rope_scale(num_pos: int, original: int) -> float:
    """What LongRoPE multiplies its table by. Formula: Ding et al., "LongRoPE", 2024."""
    ratio = num_pos / original
    return 1.0 if ratio <= 1.0 else math.sqrt(1.0 + math.log(ratio) / math.log(original))


def long_rope_frequencies(
    dim: int, theta: float, factors: Sequence[float] | float | Array, dtype: Any
) -> Array:
    """The frequencies, each divided by its factor."""
    result: Array = (inverse_frequencies(dim, theta, dtype) / np.asarray(factors, dtype=dtype)).astype(dtype)
    return result


def yarn_frequencies(
    dim: int,
    base: float,
    scaling_factor: float,
    original: int,
    beta_fast: float,
    beta_slow: float,
    dtype: Any,
) -> Array:
    """Frequencies after YaRN: pairs that turn fast are kept, slow ones divided by scaling_factor, between them mixed.

    original: the length that the model was trained on. beta_fast, beta_slow: turns over it that bound the mix.
    Formula: Peng et al., "YaRN", 2023.
    """
    fast, slow = (
        dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base))
        for turns in (beta_fast, beta_slow)
    )
    first = max(math.floor(fast), 0)
    last: float = min(math.ceil(slow), dim - 1)
    if first == last:
        last += 0.001
    ramp = np.clip((np.arange(dim // 2, dtype=dtype) - first) / (last - first), 0, 1)
    kept = 1.0 / base ** (np.arange(0, dim, 2, dtype=dtype) / dim)
    result: Array = (kept / scaling_factor * ramp + kept * (1 - ramp)).astype(dtype)
    return result


def yarn_scale(scaling_factor: float, mscale: float) -> float:
    """What YaRN multiplies attention by: 0.1 * mscale * ln(scaling_factor) + 1."""
    return 1.0 if scaling_factor <= 1 else 0.1 * mscale * math.log(scaling_factor) + 1.0
