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
from trtllm_ext.builder.rank_check import check_can_run_ranks
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
    config = source if tp_size is None else with_ranks(source, tp_size)
    check_can_run_ranks(config.mapping.world_size)
    planner = _Planner(config, asked, None if tp_size is not None else checkpoint, allow_nan)
    last = config.mapping.world_size - 1
    first = planner.plan(0)
    if tp_size is None or not _same(first, planner.plan(last)):
        ranks = (first, *(planner.plan(rank) for rank in range(1, last + 1)))
    else:
        # Tensor-parallel ranks differ in their numbers and in nothing else, which the last one has shown.
        ranks = tuple(replace(first, rank=rank) for rank in range(last + 1))
    assert planner.engine_config is not None
    return BuildPlan(planner.engine_config, ranks)


class _Planner:
    """Plans single ranks. checkpoint: where their weights are; None to do without."""

    def __init__(
        self, config: ModelConfig, asked: BuildConfig, checkpoint: Path | None, allow_nan: bool
    ) -> None:
        self._config, self._asked, self._checkpoint = config, asked, checkpoint
        self._allow_nan, self._build_id = allow_nan, new_build_id()
        self.engine_config: EngineConfig | None = None

    def plan(self, rank: int) -> RankPlan:
        try:
            return self._plan(rank)
        except TrtllmExtError as problem:
            if self._config.mapping.world_size == 1:
                raise
            raise named(rank, problem) from problem

    def _plan(self, rank: int) -> RankPlan:
        if self._checkpoint is None:
            model = _model_without_weights(self._of_rank(rank), self._asked)
        else:
            model = model_of_rank(self._checkpoint, rank, self._asked, self._allow_nan)
        traced = trace(model, self._asked)
        engine_config = traced.engine_config(model, self._build_id)
        self.engine_config = self.engine_config or engine_config
        self.engine_config.check_agrees(rank, engine_config.as_stored())
        return RankPlan(
            rank,
            *summarize(traced.network),
            weight_bytes=_bytes_of_weights(model.config),
            num_layers=int(traced.network.trt_network.num_layers),
            collectives=count_collectives(traced.network),
        )

    def _of_rank(self, rank: int) -> ModelConfig:
        mapping = RankMapping.from_dict({**self._config.mapping.to_dict(), "rank": rank})
        return replace(self._config, mapping=mapping)


def _same(one: RankPlan, other: RankPlan) -> bool:
    return replace(other, rank=one.rank) == one


def _bytes_of_weights(config: ModelConfig) -> int:
    return sum(map(math.prod, expected_weights(config).values())) * weight_dtype(config.dtype).itemsize


def _model_without_weights(config: ModelConfig, asked: BuildConfig) -> Any:
    """A rank's model whose weights are views of the same zeros, whose memory nobody touches."""
    model = models.model_from_config(config, **model_options(asked))
    shapes = expected_weights(config)
    zeros = np.zeros(max(map(math.prod, shapes.values()), default=0), weight_dtype(config.dtype))
    model.load({name: zeros[: math.prod(shape)].reshape(shape) for name, shape in shapes.items()})
    return model
