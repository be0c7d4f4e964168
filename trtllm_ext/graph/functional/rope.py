"""RopeEmbeddingUtils: rotary position embeddings, tables and their application, without attention kernels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trtllm_ext.graph.functional import rope_tables
from trtllm_ext.graph.functional.chatglm_rope import rotate_chatglm, rotate_cogvlm
from trtllm_ext.graph.functional.enumerations import PositionEmbeddingType, RotaryScalingType
from trtllm_ext.graph.functional.rotation import rotate, rotate_every_two, rotate_half
from trtllm_ext.graph.tensor import Tensor

Array = np.ndarray[Any, Any]


class RopeEmbeddingUtils:
    """TensorRT-LLM's functions for rotary position embeddings; all are static.

    The `create_` functions return numpy arrays (tables for the host), the `rotate_` and `apply_` ones add layers.
    """

    @staticmethod
    def apply_llama3_scaling(inv_freqs: Array, rope_scaling_config: Mapping[str, Any]) -> Array:
        """See `rope_tables.llama3_scaling`."""
        return rope_tables.llama3_scaling(inv_freqs, rope_scaling_config)

    @staticmethod
    def create_sinusoidal_positions(
        num_pos: int, dim: int, theta: float = 10000.0, dtype: Any = np.float32
    ) -> Array:
        """The table `sin|cos`, (1, num_pos, dim)."""
        frequencies = rope_tables.inverse_frequencies(dim, theta, dtype)
        return rope_tables.sin_cos(rope_tables.angles(np.arange(num_pos, dtype=dtype), frequencies))

    @staticmethod
    def create_sinusoidal_positions_for_attention_plugin(
        num_pos: int,
        dim: int,
        theta: float = 10000.0,
        scale: float = 1.0,
        scale_type: RotaryScalingType = RotaryScalingType.none,
        rope_scaling_config: Mapping[str, Any] | None = None,
        dtype: Any = np.float32,
    ) -> tuple[Array, Array]:
        """The scaled frequencies (dim / 2,) and the table `fused` (1, num_pos * dim).

        Raises ConfigError when rope_scaling_config lacks what scale_type needs.
        """
        frequencies = rope_tables.scaled_frequencies(
            dim, theta, scale, scale_type, rope_scaling_config, dtype
        )
        return frequencies, rope_tables.fused(
            rope_tables.angles(np.arange(num_pos, dtype=dtype), frequencies)
        )

    @staticmethod
    def create_sinusoidal_positions_for_cogvlm_attention_plugin(
        num_pos: int,
        dim: int,
        theta: float = 10000.0,
        scale: float = 1.0,
        scale_type: RotaryScalingType = RotaryScalingType.none,
        vision_start: int = 1,
        vision_length: int = 1225,
        dtype: Any = np.float32,
    ) -> tuple[Array, Array]:
        """The same where the `vision_length` tokens of an image, after token vision_start, count as one position."""
        kind = scale_type if scale_type == RotaryScalingType.linear else RotaryScalingType.none
        frequencies = rope_tables.scaled_frequencies(dim, theta, scale, kind, None, dtype)
        positions = rope_tables.cogvlm_positions(num_pos, vision_start, vision_length, dtype)
        return frequencies, rope_tables.fused(rope_tables.angles(positions, frequencies))

    @staticmethod
    def create_sinusoidal_positions_long_rope_for_attention_plugin(
        num_pos: int,
        num_orig_pos: int,
        dim: int,
        theta: float = 10000.0,
        scaling_short_factors: Sequence[float] | float = 1.0,
        scaling_long_factors: Sequence[float] | float = 1.0,
        short_mscale: float | None = None,
        long_mscale: float | None = None,
        dtype: Any = np.float32,
    ) -> tuple[Array, Array, tuple[Array, Array], tuple[Array, Array], float]:
        """LongRoPE with short and long factors; TensorRT-LLM 0.16 calls this create_sinusoidal_positions_long_rope.

        Returns the tables `sin|cos` for short and for long texts; for each the frequencies (1, dim / 2) with the table
        `fused`; and the scale of the short ones.
        """
        if short_mscale is None:
            short_mscale = long_mscale = rope_tables.long_rope_scale(num_pos, num_orig_pos)
        elif long_mscale is None:
            long_mscale = short_mscale
        positions = np.arange(num_pos, dtype=dtype)
        plain, fused = [], []
        for factors, scale in ((scaling_short_factors, short_mscale), (scaling_long_factors, long_mscale)):
            frequencies = rope_tables.long_rope_frequencies(dim, theta, factors, dtype)
            turned = rope_tables.angles(positions, frequencies)
            plain.append((rope_tables.sin_cos(turned) * scale).astype(dtype))
            fused.append((frequencies.reshape(1, -1), rope_tables.fused(turned, scale)))
        return plain[0], plain[1], fused[0], fused[1], short_mscale

    @staticmethod
    def create_sinusoidal_positions_long_rope(
        num_pos: int,
        dim: int,
        theta: float,
        original_max_pos: int,
        short_factor: Sequence[float],
        long_factor: Sequence[float],
        dtype: Any = np.float32,
        max_seq_len: int | None = None,
    ) -> tuple[None, Array]:
        """LongRoPE with the long factors, or the short ones where max_seq_len is no longer than original_max_pos.

        Returns (None, the table `fused` of max(num_pos, original_max_pos) positions).
        """
        short = max_seq_len is not None and max_seq_len <= original_max_pos
        frequencies = rope_tables.long_rope_frequencies(
            dim, theta, short_factor if short else long_factor, np.float32
        )
        positions = np.arange(max(num_pos, original_max_pos), dtype=np.float32)
        scale = rope_tables.long_rope_scale(num_pos, original_max_pos)
        return None, rope_tables.fused(rope_tables.angles(positions, frequencies), scale).astype(dtype)

    @staticmethod
    def create_fake_weight(dim: int, dtype: Any = np.half) -> Array:
        """Random numbers in 0..1, (dim,), for trying things out."""
        return np.random.default_rng().random(dim).astype(dtype)

    @staticmethod
    def create_sinusoidal_positions_yarn(
        num_pos: int,
        dim: int,
        base: int = 10000,
        scaling_factor: float = 1.0,
        original_max_position_embeddings: int = 4096,
        beta_fast: int = 32,
        beta_slow: int = 1,
        mscale: float = 1.0,
        mscale_all_dim: float = 1.0,
        duplicate_data: bool = True,
        dtype: Any = np.float32,
    ) -> tuple[Array, Array]:
        """YaRN's frequencies (dim / 2,) and their table `fused`, whose pairs all come twice with duplicate_data.

        mscale_all_dim: 0.0 but for DeepSeek's variant. duplicate_data is False by default in TensorRT-LLM 0.16.
        """
        frequencies = rope_tables.yarn_frequencies(
            dim, base, scaling_factor, original_max_position_embeddings, beta_fast, beta_slow, dtype
        )
        turned = rope_tables.angles(np.arange(num_pos, dtype=dtype), frequencies)
        if duplicate_data:
            turned = np.concatenate([turned, turned], axis=-1)
        scale = rope_tables.yarn_scale(scaling_factor, mscale) / rope_tables.yarn_scale(
            scaling_factor, mscale_all_dim
        )
        return frequencies, rope_tables.fused(turned, scale)

    @staticmethod
    def rotate_every_two(tensor: Tensor) -> Tensor:
        """(-b, a) for each pair (a, b) of neighbours in the last of four dimensions."""
        return rotate_every_two(tensor)

    @staticmethod
    def rotate_half(tensor: Tensor) -> Tensor:
        """(-b, a) of the halves (a, b) of the last of four dimensions."""
        return rotate_half(tensor)

    @staticmethod
    def apply_rotary_pos_emb(
        tensor: Tensor,
        position_embedding: Sequence[Tensor] | None = None,
        pos_emb_type: PositionEmbeddingType = PositionEmbeddingType.rope_gptj,
    ) -> Tensor:
        """See `rotation.rotate`."""
        return rotate(tensor, position_embedding or (), pos_emb_type)

    @staticmethod
    def apply_rotary_pos_emb_chatglm(
        qkv: Tensor | Sequence[Tensor],
        position_embedding: Tensor,
        num_attention_heads: int,
        attention_head_size: int,
        max_position_embeddings: int,
        rotary_embedding_scale: float,
        remove_input_padding: bool,
    ) -> Tensor | list[Tensor]:
        """See `chatglm_rope.rotate_chatglm`."""
        table = RopeEmbeddingUtils.create_sinusoidal_positions(
            max_position_embeddings, attention_head_size // 2
        )
        return rotate_chatglm(
            qkv,
            position_embedding,
            num_attention_heads,
            attention_head_size,
            table[0] / np.float32(rotary_embedding_scale),
            remove_input_padding,
        )

    @staticmethod
    def apply_rotary_pos_emb_cogvlm(
        qkv: Tensor | Sequence[Tensor],
        position_embedding: Tensor,
        num_attention_heads: int,
        attention_head_size: int,
        max_position_embeddings: int,
        rotary_embedding_scale: float,
        remove_input_padding: bool,
    ) -> Tensor | list[Tensor]:
        """See `chatglm_rope.rotate_cogvlm`."""
        table = RopeEmbeddingUtils.create_sinusoidal_positions(max_position_embeddings, attention_head_size)
        return rotate_cogvlm(
            qkv,
            position_embedding,
            num_attention_heads,
            attention_head_size,
            table[0] / np.float32(rotary_embedding_scale),
            remove_input_padding,
        )
