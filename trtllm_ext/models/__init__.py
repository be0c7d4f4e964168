"""Whole networks, built from a checkpoint's config alone."""

from trtllm_ext.models.base import Model
from trtllm_ext.models.encoder import Encoder, encoder_config
from trtllm_ext.models.loading import MODELS, model_from_checkpoint, model_from_config
from trtllm_ext.models.random import write_random_checkpoint
from trtllm_ext.models.sublayer_stack import SublayerStack, sublayer_stack_config

__all__ = [
    "MODELS",
    "Encoder",
    "Model",
    "SublayerStack",
    "encoder_config",
    "model_from_checkpoint",
    "model_from_config",
    "sublayer_stack_config",
    "write_random_checkpoint",
]
