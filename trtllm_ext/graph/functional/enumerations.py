"""TensorRT-LLM's enumerations: position embeddings, masks, norms, kinds of feed-forward, collectives.

Members and values are those of its releases 1.0 to 1.2. In 0.16 `PositionEmbeddingType.mrope` and the strategies of
an all-reduce have other numbers: go by the names.
"""

from enum import IntEnum, IntFlag
from typing import TypeVar

from trtllm_ext.errors import ConfigError
from trtllm_ext.suggest import nearest

Member = TypeVar("Member", bound=IntEnum)


class RotaryScalingType(IntEnum):
    """How rotary frequencies are changed for texts longer than a model was trained on."""

    none = 0
    linear = 1
    dynamic = 2
    longrope = 3
    llama3 = 4
    yarn = 5
    mrope = 6

    @staticmethod
    def from_string(s: str) -> "RotaryScalingType":
        """The member of that name. Raises ConfigError (a ValueError) for any other."""
        return _member(RotaryScalingType, s, "rotary scaling type")


class PositionEmbeddingType(IntEnum):
    """How a model tells positions apart."""

    learned_absolute = 0
    rope_gptj = 1
    rope_gpt_neox = 2
    long_rope = 3
    alibi = 4
    alibi_with_scale = 5
    relative = 6
    chatglm = 7
    yarn = 8
    mrope = 9
    deferred = 10

    def is_rope(self) -> bool:
        """Whether queries and keys are rotated in attention itself (not chatglm's and yarn's own ways)."""
        return self.name in ("rope_gptj", "rope_gpt_neox", "long_rope", "mrope")

    def is_mrope(self) -> bool:
        """Whether positions have several parts, as for images and video."""
        return self is PositionEmbeddingType.mrope

    def is_alibi(self) -> bool:
        """Whether a bias that grows with the distance is added to the scores."""
        return self.name in ("alibi", "alibi_with_scale")

    def is_deferred(self) -> bool:
        """Whether an external embedder does it after keys were cached."""
        return self is PositionEmbeddingType.deferred

    @staticmethod
    def choices() -> list[str]:
        """All names."""
        return [member.name for member in PositionEmbeddingType]

    def __str__(self) -> str:
        return self.name

    @staticmethod
    def from_string(s: str) -> "PositionEmbeddingType":
        """The member of that name. Raises ConfigError (a ValueError) for any other."""
        return _member(PositionEmbeddingType, s, "position embedding type")


class AttentionMaskType(IntEnum):
    """Which positions attend to which."""

    padding = 0
    causal = 1
    sliding_window_causal = 2
    bidirectional = 3
    bidirectionalglm = 4
    blocksparse = 5
    custom_mask = 6


class LayerNormType(IntEnum):
    """Kinds of normalisation layers."""

    LayerNorm = 0
    RmsNorm = 1
    GroupNorm = 2


class LayerNormPositionType(IntEnum):
    """Whether a sublayer is normalised before it or after the residual."""

    pre_layernorm = 0
    post_layernorm = 1


class MLPType(IntEnum):
    """Kinds of feed-forward sublayers."""

    MLP = 0
    GatedMLP = 1
    FusedGatedMLP = 2


class SliceInputType(IntEnum):
    """The inputs of a slice layer by index."""

    data = 0
    start = 1
    size = 2
    stride = 3
    fill_value = 4
    axes = 5


class SideStreamIDType(IntEnum):
    """CUDA streams beside the main one."""

    disable = 0
    moe = 1


class AllReduceStrategy(IntEnum):
    """How GPUs add up a tensor."""

    NCCL = 0
    MIN_LATENCY = 1
    UB = 2
    AUTO = 3
    ONESHOT = 4
    TWOSHOT = 5
    LOWPRECISION = 6
    MNNVL = 7
    NCCL_SYMMETRIC = 8


class AllReduceConfig(IntFlag):
    """Settings of 0.16's own all-reduce kernels; later releases have none."""

    USE_MEMCPY = 1
    PUSH_MODE = 2


class AllReduceFusionOp(IntEnum):
    """What is computed together with an all-reduce."""

    NONE = 0
    RESIDUAL_RMS_NORM = 1
    LAST_PROCESS_FOR_UB = 2
    RESIDUAL_RMS_PREPOST_NORM = 3
    RESIDUAL_RMS_NORM_QUANT_FP8 = 4
    RESIDUAL_RMS_NORM_QUANT_NVFP4 = 5
    RESIDUAL_RMS_NORM_OUT_QUANT_FP8 = 6
    RESIDUAL_RMS_NORM_OUT_QUANT_NVFP4 = 7
    MOE_FINALIZE_ALLREDUCE_RESIDUAL_RMS_NORM = 8


def _member(enumeration: type[Member], name: str, what: str) -> Member:
    try:
        return enumeration[name]
    except KeyError:
        names = (member.name for member in enumeration)
        raise ConfigError(f"{name!r} is not a {what}. {nearest(name, names)}") from None
