"""From a checkpoint directory to a model."""

from __future__ import annotations

import os

from trtllm_ext.checkpoint import ModelConfig, load_checkpoint
from trtllm_ext.errors import ConfigError
from trtllm_ext.models.base import Model
from trtllm_ext.models.encoder import Encoder
from trtllm_ext.models.sublayer_stack import SublayerStack

MODELS: dict[str, type[Model]] = {kind.architecture: kind for kind in (SublayerStack, Encoder)}


def model_from_config(config: ModelConfig, *, sequence_parallel: bool = False) -> Model:
    """The model that a config describes, its parameters unset; with several ranks that of the mapping's rank.

    sequence_parallel: see `SublayerStack`, which alone has it.
    Raises ConfigError for an unknown architecture, and for sequence_parallel with another one.
    """
    if config.architecture not in MODELS:
        raise ConfigError(
            f"architecture {config.architecture!r} is not known; supported: {', '.join(MODELS)}."
        )
    kind = MODELS[config.architecture]
    if not sequence_parallel:
        return kind(config)
    if kind is not SublayerStack:
        raise ConfigError(
            f"sequence_parallel deals packed tokens out to the ranks; the {config.architecture}'s are a padded batch, "
            "of which attention needs whole sentences. Build it without; its heads and feed-forward are split all "
            "the same."
        )
    return SublayerStack(config, sequence_parallel=True)


def model_from_checkpoint(
    path: str | os.PathLike[str],
    *,
    rank: int = 0,
    allow_nan: bool = False,
    sequence_parallel: bool = False,
) -> Model:
    """The model of a checkpoint directory, its parameters being views of the mapped weight file.

    rank: whose shards, where the checkpoint is split over several. sequence_parallel: see `model_from_config`.
    Raises CheckpointError for whatever `load_checkpoint` refuses, and what `model_from_config` raises.
    """
    checkpoint = load_checkpoint(path, rank=rank, allow_nan=allow_nan)
    model = model_from_config(checkpoint.config, sequence_parallel=sequence_parallel)
    model.load(checkpoint.weights)
    return model
