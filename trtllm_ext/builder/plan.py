"""What a build would make, rank by rank, without making it."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from trtllm_ext import models
from trtllm_ext.builder.build_config import BuildConfig
from trtllm_ext.builder.collectives import CollectiveUse, count_collectives
from trtllm_ext.builder.engine import EngineConfig, new_build_id, summarize
from trtllm_ext.builder.rank_build import model_of_rank, model_options, named
from trtllm_ext.builder.trace import trace
from trtllm_ext.checkpoint import ModelConfig, load_config
from trtllm_ext.checkpoint.dtypes import weight_dtype
from trtllm_ext.checkpoint.sharding import with_ranks
from trtllm_ext.checkpoint.weights import expected_weights
from trtllm_ext.errors import TrtllmExtError
from trtllm_ext.parallel import Mapping as RankMapping
from trtllm_ext.runtime.envelope import TensorSummary


@dataclass(frozen=True)
class RankPlan:
    """One rank's engine as it would be built.

    weight_bytes: of its share of the checkpoint. num_layers: of its network. collectives: of one run.
    """

    rank: int
    inputs: tuple[TensorSummary, ...]
    outputs: tuple[TensorSummary, ...]
    weight_bytes: int
    num_layers: int
    collectives: tuple[CollectiveUse, ...]


@dataclass(frozen=True)
class BuildPlan:
    """All ranks of a build. config: what the engine directory's config.json would say."""

    config: EngineConfig
    ranks: tuple[RankPlan, ...]


def plan_build(
    checkpoint_dir: str | os.PathLike[str],
    build_config: BuildConfig | None = None,
    *,
    allow_nan: bool = False,
    tp_size: int | None = None,
) -> BuildPlan:
    """A dry run: everything up to the networks of all ranks, without building.

    tp_size: plan for the same model on that many ranks, whatever number the checkpoint is for. Its weights are not
    read then, only counted, so that a large model on many ranks takes seconds.
    Raises CheckpointError, ConfigError and BuildError as `build_engine_dir` does.
    """
    checkpoint, asked = Path(checkpoint_dir), build_config or BuildConfig()
    source = load_config(checkpoint)
    given = source if tp_size is None else with_ranks(source, tp_size)
    build_id = new_build_id()
    config: EngineConfig | None = None
    ranks = []
    for rank in range(given.mapping.world_size):
        try:
            own = replace(given, mapping=RankMapping.from_dict({**given.mapping.to_dict(), "rank": rank}))
            model = (
                model_of_rank(checkpoint, rank, asked, allow_nan)
                if tp_size is None
                else _model_without_weights(own, asked)
            )
            traced = trace(model, asked)
            inputs, outputs = summarize(traced.network)
            found = traced.engine_config(model, build_id)
            config = config or found
            config.check_agrees(rank, found.as_stored())
            ranks.append(
                RankPlan(
                    rank,
                    inputs,
                    outputs,
                    _weight_bytes(own),
                    int(traced.network.trt_network.num_layers),
                    count_collectives(traced.network),
                )
            )
        except TrtllmExtError as problem:
            if given.mapping.world_size == 1:
                raise
            raise named(rank, problem) from problem
    assert config is not None
    return BuildPlan(config, tuple(ranks))


def _weight_bytes(config: ModelConfig) -> int:
    return sum(map(math.prod, expected_weights(config).values())) * weight_dtype(config.dtype).itemsize


def _model_without_weights(config: ModelConfig, asked: BuildConfig) -> Any:
    """A rank's model with zeros for weights, whose memory nobody touches."""
    model = models.model_from_config(config, **model_options(asked))
    dtype = weight_dtype(config.dtype)
    model.load({name: np.zeros(shape, dtype) for name, shape in expected_weights(config).items()})
    return model
