"""Comparing a model over several ranks with the same model on one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from trtllm_ext import models
from trtllm_ext.builder.build_config import BuildConfig
from trtllm_ext.builder.building import build
from trtllm_ext.builder.engine import Engine, EngineConfig
from trtllm_ext.builder.known_answer import TIMEOUT_S
from trtllm_ext.builder.rank_build import Progress, model_options, silent
from trtllm_ext.builder.rebuilding import for_this_process
from trtllm_ext.builder.same_model import check_same_model
from trtllm_ext.builder.seeded_inputs import input_values, smaller_shape
from trtllm_ext.checkpoint import Checkpoint, load_config, load_resharded, load_whole
from trtllm_ext.checkpoint.dtypes import weight_dtype
from trtllm_ext.checkpoint.sharding import ways_to_ranks
from trtllm_ext.errors import ConfigError, RankError
from trtllm_ext.runtime import EngineDir, Session
from trtllm_ext.runtime.envelope import TensorSummary
from trtllm_ext.runtime.ranks.agreement import SHARDED, worst_difference
from trtllm_ext.runtime.ranks.rehearsal import Rehearsal, check_same_bits

_SEED = 21


@dataclass(frozen=True)
class Comparison:
    """One run of all ranks beside one of the whole model.

    shapes: of the inputs, by name. dtype: of both models.
    output: the one that differs most, by `difference` of its largest value.
    same_bits: whether all ranks gave the same.
    """

    shapes: Mapping[str, tuple[int, ...]]
    dtype: str
    output: str
    difference: float
    tolerance: float
    same_bits: bool

    @property
    def is_right(self) -> bool:
        """Whether the ranks agree among each other, and with the whole model."""
        return self.difference <= self.tolerance and self.same_bits


def verify(
    checkpoint_dir: str | os.PathLike[str],
    build_config: BuildConfig | None = None,
    *,
    engine_dir: str | os.PathLike[str] | None = None,
    num_ranks: int | None = None,
    allow_nan: bool = False,
    progress: Progress | None = None,
) -> Iterator[Comparison]:
    """Run a checkpoint's model over several ranks, all in this process, and whole; compare what comes out.

    Inputs are seeded: of the least size, of a small one, and of the one that the engines are tuned for.
    engine_dir: the engines of the ranks; by default they are built in memory, as the whole model's always is. Those
        built of float16 and bfloat16 are compared within their roundings; then all are built and compared once more
        in float32, with the same weights, where there is nothing that a small mistake could hide in.
    num_ranks: by default the checkpoint's own number; its weights are dealt out again for another.
    Memory: the whole model twice, in float32 unless engine_dir is given.
    Raises CheckpointError, ConfigError, BuildError, EngineError, RankError.
    """
    tell = progress or silent
    if num_ranks is not None and num_ranks < 2:
        raise ConfigError(f"num_ranks={num_ranks}: give 2 or more ranks, or None for the checkpoint's own.")
    if engine_dir is None:
        config = _without_taps(build_config or BuildConfig())
        source = _Source(checkpoint_dir, num_ranks, config, allow_nan, tell)
        for dtype in dict.fromkeys((source.dtype, "float32")):
            yield from _built(source, dtype)
        return
    engine_config, inputs = _described(engine_dir, checkpoint_dir, num_ranks)
    config = _without_taps(engine_config.build_config)
    tell("loading the ranks", 0)
    with Rehearsal(engine_dir, timeout=TIMEOUT_S) as rehearsal:
        source = _Source(checkpoint_dir, num_ranks, config, allow_nan, tell)
        yield from _compared(rehearsal, inputs, source.whole(source.dtype), tell)


def _built(source: _Source, dtype: str) -> Iterator[Comparison]:
    """What ranks and whole model built in a type give."""
    engines = list(source.ranks(dtype))
    inputs = engines[0].inputs
    with Rehearsal(engines, timeout=TIMEOUT_S) as rehearsal:
        del engines
        yield from _compared(rehearsal, inputs, source.whole(dtype), source.tell)


def _compared(
    rehearsal: Rehearsal, inputs: tuple[TensorSummary, ...], whole: Engine, tell: Progress
) -> Iterator[Comparison]:
    sizes = whole.config.pretrained_config
    dtype = str(sizes["dtype"])
    with Session.from_serialized_engine(whole.engine, "mapped") as session:
        for given in _inputs_of(inputs, sizes):
            shapes = {name: value.shape for name, value in given.items()}
            text = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            tell(f"running {text} in {dtype}", 0)
            expected = session.run(given)
            by_rank = [{name: rank[name] for name in expected} for rank in rehearsal.run(given)]
            output, difference = worst_difference(by_rank[0], expected)
            yield Comparison(shapes, dtype, output, difference, SHARDED[dtype], _are_same(by_rank))


def _without_taps(config: BuildConfig) -> BuildConfig:
    """Taps are not compared: ranks may have parts of them. Nor is surgery: the model as it is has none."""
    return for_this_process(config, taps=(), enable_debug_output=False, surgery=())


class _Source:
    """The engines of a checkpoint, built in its own type or, the weights widened, in float32."""

    def __init__(
        self,
        checkpoint_dir: str | os.PathLike[str],
        num_ranks: int | None,
        config: BuildConfig,
        allow_nan: bool,
        tell: Progress,
    ) -> None:
        stored = load_config(checkpoint_dir)
        self.dtype, self.tell = stored.dtype, tell
        self._path, self._config, self._allow_nan = checkpoint_dir, config, allow_nan
        self._num_ranks = num_ranks or stored.mapping.world_size

    def ranks(self, dtype: str) -> Iterator[Engine]:
        """Each rank's. Raises ConfigError where there is one."""
        size = self._num_ranks
        if size < 2:
            raise ConfigError(
                f"{os.fspath(self._path)} is a checkpoint of one rank, so there is nothing to compare. Give a number "
                f"of ranks (--simulate_ranks 2), or {ways_to_ranks(2)}."
            )
        for rank in range(size):
            self.tell(f"rank {rank}: building in {dtype}", 0)
            part = load_resharded(self._path, size, rank, allow_nan=self._allow_nan)
            yield _build(_in_type(part, dtype), self._config)

    def whole(self, dtype: str) -> Engine:
        """The whole model's."""
        self.tell(f"building the whole model in {dtype}", 0)
        whole = load_whole(self._path, allow_nan=self._allow_nan)
        return _build(_in_type(whole, dtype), self._config.updated(sequence_parallel=False))


def _in_type(checkpoint: Checkpoint, dtype: str) -> Checkpoint:
    if checkpoint.config.dtype == dtype:
        return checkpoint
    weights = {name: value.astype(weight_dtype(dtype)) for name, value in checkpoint.weights.items()}
    return Checkpoint(replace(checkpoint.config, dtype=dtype), weights)


def _build(checkpoint: Checkpoint, config: BuildConfig) -> Engine:
    model = models.model_from_config(checkpoint.config, **model_options(config))
    model.load(checkpoint.weights)
    return build(model, config)


def _described(
    engine_dir: str | os.PathLike[str], checkpoint_dir: str | os.PathLike[str], num_ranks: int | None
) -> tuple[EngineConfig, tuple[TensorSummary, ...]]:
    """What an engine directory says of itself, if it has several ranks and may be of that checkpoint."""
    directory = EngineDir.read(Path(engine_dir), 0)
    size = directory.envelope.world_size
    if size < 2 or num_ranks not in (None, size):
        raise ConfigError(
            f"{os.fspath(engine_dir)} is an engine of {size} rank(s); "
            + (
                "only one of several can be compared with the whole model."
                if size < 2
                else f"it cannot be tried with {num_ranks}. Leave --simulate_ranks out, or --engine_dir."
            )
        )
    config = EngineConfig.from_dict(directory.config)
    check_same_model(
        config.pretrained_config,
        load_config(checkpoint_dir),
        engine=engine_dir,
        checkpoint=checkpoint_dir,
        way_out="Give the checkpoint that it was built from.",
    )
    needed = (each for each in directory.envelope.inputs if each.name not in config.input_defaults)
    return config, tuple(needed)


def _inputs_of(
    inputs: tuple[TensorSummary, ...], sizes: Mapping[str, Any]
) -> Iterator[dict[str, np.ndarray[Any, Any]]]:
    choices: list[Callable[[TensorSummary], tuple[int, ...]]] = [
        lambda tensor: tensor.profiles[0][0] if tensor.profiles else tensor.shape,
        smaller_shape,
        lambda tensor: tensor.profiles[0][1] if tensor.profiles else tensor.shape,
    ]
    seen = set()
    for number, shape_of in enumerate(choices):
        shapes = {each.name: shape_of(each) for each in inputs}
        if (key := tuple(shapes.values())) in seen:
            continue
        seen.add(key)
        generator = np.random.default_rng([_SEED, number])
        yield {each.name: input_values(each, shapes[each.name], sizes, generator) for each in inputs}


def _are_same(by_rank: list[dict[str, Any]]) -> bool:
    try:
        check_same_bits(by_rank)
    except RankError:
        return False
    return True
