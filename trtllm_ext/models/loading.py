"""From a checkpoint directory to a model."""

from __future__ import annotations

import os

from trtllm_ext.checkpoint import ModelConfig, load_checkpoint
from trtllm_ext.errors import ConfigError
from trtllm_ext.models.base import Model
from trtllm_ext.models.encoder import Encoder
from trtllm_ext.models.sublayer_stack import SublayerStack

MODELS: dict[str, type[Model]] = {kind.architecture: kind for kind in (SublayerStack, Encoder)}


def model_from_config(config: ModelConfig) -> Model:
    """The model that a config describes, its parameters unset.

    Raises ConfigError for an unknown architecture.
    """
    if config.architecture not in MODELS:
        raise ConfigError(
            f"architecture {config.architecture!r} is not known; supported: {', '.join(MODELS)}."
        )
    return MODELS[config.architecture](config)


def model_from_checkpoint(path: str | os.PathLike[str], *, rank: int = 0, allow_nan: bool = False) -> Model:
    """The model of a checkpoint directory, its parameters being views of the mapped weight file.

    Raises CheckpointError for whatever `load_checkpoint` refuses.
    """
    checkpoint = load_checkpoint(path, rank=rank, allow_nan=allow_nan)
    model = model_from_config(checkpoint.config)
    model.load(checkpoint.weights)
    return model
