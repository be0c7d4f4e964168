"""What a conversion will do, worked out before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from trtllm_ext.checkpoint.config import ModelConfig
from trtllm_ext.checkpoint.convert.pieces import Shape, Weight
from trtllm_ext.checkpoint.convert.source import SourceView, SourceWeights
from trtllm_ext.checkpoint.weights import expected_weights
from trtllm_ext.errors import CheckpointError


@dataclass(frozen=True)
class Plan:
    """A model's config, and for each of its weights the views of source weights that follow each other in it.

    source: the ledger, whose `finish` has found nothing to object to.
    """

    config: ModelConfig
    parts: dict[str, tuple[SourceView, ...]]
    source: SourceWeights


def plan_weights(
    config: ModelConfig, source: SourceWeights, compose: Callable[[str, Shape], Weight]
) -> dict[str, tuple[SourceView, ...]]:
    """The source views of every weight that the config calls for, marked as used in the ledger.

    compose: called as compose(name, shape) with our names; gives what the weight is made of.
    Raises CheckpointError when that has another shape than the config's; what the source lacks is noted in the ledger.
    """
    parts = {}
    for name, shape in expected_weights(config).items():
        weight = compose(name, shape)
        _check_shape(name, weight, shape)
        parts[name] = source.use(weight)
    return parts


def _check_shape(name: str, weight: Weight, shape: Shape) -> None:
    if weight.shape != shape:
        sources = ", ".join(f"{piece.name} {piece.source_shape}" for piece in weight.pieces[:4])
        raise CheckpointError(
            f"{name} has the shape {shape} by the model's config, but {weight.shape} as made of {sources}."
        )
