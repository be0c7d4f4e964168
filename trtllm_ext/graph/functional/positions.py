"""Position biases and scalings of attention, and the last token of each sequence."""

import math
from typing import Any

import numpy as np

from trtllm_ext.backend import tensorrt
from trtllm_ext.errors import ConfigError
from trtllm_ext.graph.functional.constants import arange
from trtllm_ext.graph.functional.elementwise import mul, sub
from trtllm_ext.graph.functional.operands import require_index_dtype, require_tensor
from trtllm_ext.graph.functional.selection import gather_nd, index_select
from trtllm_ext.graph.functional.shaping import unsqueeze, view
from trtllm_ext.graph.layer import fail
from trtllm_ext.graph.tensor import Tensor

Array = np.ndarray[Any, Any]


def generate_logn_scaling(seq_length: int = 8192, max_position_embeddings: int = 32768) -> Array:
    """log(position) / log(seq_length) for the positions 1, 2, ..., but at least 1: (max_position_embeddings,) float32.

    What Qwen multiplies queries beyond its training length by.
    """
    positions = np.arange(1, max_position_embeddings + 1, dtype=np.float64)
    return np.maximum(np.log(positions) / math.log(seq_length), 1.0).astype(np.float32)


def generate_alibi_slopes(
    num_heads: int,
    tp_size: int = 1,
    tp_rank: int = 0,
    alibi_scale: float = 1.0,
    alibi_bias_max: int = 8,
) -> Array:
    """The slopes of ALiBi for the heads of rank tp_rank: (1, num_heads / tp_size, 1, 1) float32.

    For a power of two, head h (from 1) has 2^(-alibi_bias_max * h / num_heads). The heads beyond the last power of two
    take every other slope of the next one. All are multiplied by alibi_scale.
    Raises ConfigError when num_heads does not split over tp_size.
    Formula: Press et al., "Train Short, Test Long", 2021.
    """
    if num_heads < 1 or tp_size < 1 or num_heads % tp_size or not 0 <= tp_rank < tp_size:
        raise ConfigError(
            f"num_heads={num_heads} does not split over tp_size={tp_size} ranks, of which this is tp_rank={tp_rank}; "
            "pick a divisor, and a rank below it."
        )
    power = 2 ** (num_heads.bit_length() - 1)
    heads = np.arange(num_heads // tp_size, dtype=np.float64) + tp_rank * (num_heads // tp_size)
    exponents = np.where(heads < power, (heads + 1) / power, (2 * (heads - power) + 1) / (2 * power))
    slopes = (2.0 ** (-alibi_bias_max * exponents)).astype(np.float32) * np.float32(alibi_scale)
    return slopes.reshape(1, -1, 1, 1)


def generate_alibi_biases(slopes: Tensor, key_length: Tensor) -> Tensor:
    """slope * key position, (1, heads, 1, key_length): to be added to the scores before the softmax.

    slopes: (1, heads, 1, 1) float32. key_length: an integer Tensor of rank 0.
    """
    require_index_dtype(require_tensor(key_length, "key_length"), "key_length")
    return mul(slopes, view(arange(0, key_length, tensorrt().DataType.FLOAT), [1, 1, 1, -1]))


def gather_last_token_logits(
    hidden_states: Tensor, last_token_ids: Tensor | None, remove_input_padding: bool
) -> Tensor:
    """The rows of `hidden_states` that belong to the last token of each sequence.

    remove_input_padding: hidden_states is (tokens, hidden) and last_token_ids (batch,) holds where each sequence ends,
        the running sum of lengths. Else hidden_states is (batch, seq, hidden) and last_token_ids holds the lengths
        (batch,), or the positions themselves, from 0 on, of several tokens of each sequence (batch, count).
    Returns (batch, hidden), or (batch, count, hidden); hidden_states itself when last_token_ids is None.
    """
    if last_token_ids is None:
        return hidden_states
    require_index_dtype(last_token_ids, "last_token_ids")
    expected = 2 if remove_input_padding else 3
    if hidden_states.rank() != expected:
        raise fail(f"hidden_states has {expected} dimensions here, got the shape {hidden_states.shape}")
    if last_token_ids.rank() == 1:
        last = sub(last_token_ids, 1)
        if remove_input_padding:
            return index_select(hidden_states, 0, last)
        return gather_nd(hidden_states, unsqueeze(last, 1), 1)
    if remove_input_padding or last_token_ids.rank() != 2:
        raise fail(
            f"last_token_ids is (batch,), or (batch, count) with padding, got the shape {last_token_ids.shape}"
        )
    return gather_nd(hidden_states, unsqueeze(last_token_ids, 2), 1)
