"""The checkpoint format, the contract that fixes a model's maths, and converters from other formats."""

from trtllm_ext.checkpoint.config import ModelConfig, stack_config
from trtllm_ext.checkpoint.contract import (
    ACTIVATIONS,
    GATES,
    PLACEMENTS,
    AttentionContract,
    Contract,
    EmbeddingContract,
    FeedForwardContract,
    HyperConnectionContract,
    MixtureContract,
    NormContract,
    PoolingContract,
    ResidualContract,
    check_activation,
)
from trtllm_ext.checkpoint.convert import ConversionReport, convert
from trtllm_ext.checkpoint.directory import Checkpoint, load_checkpoint, load_config, write_checkpoint
from trtllm_ext.checkpoint.forms import FORMS
from trtllm_ext.checkpoint.resharding import load_resharded, load_whole
from trtllm_ext.checkpoint.weights import expected_weights

__all__ = [
    "ACTIVATIONS",
    "FORMS",
    "GATES",
    "PLACEMENTS",
    "AttentionContract",
    "Checkpoint",
    "Contract",
    "ConversionReport",
    "EmbeddingContract",
    "FeedForwardContract",
    "HyperConnectionContract",
    "MixtureContract",
    "ModelConfig",
    "NormContract",
    "PoolingContract",
    "ResidualContract",
    "check_activation",
    "convert",
    "expected_weights",
    "load_checkpoint",
    "load_config",
    "load_resharded",
    "load_whole",
    "stack_config",
    "write_checkpoint",
]
