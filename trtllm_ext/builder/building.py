"""From a model, or from a checkpoint directory, to an engine."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trtllm_ext.builder.build_config import BuildConfig
from trtllm_ext.builder.engine import Engine, EngineConfig, new_build_id, summarize
from trtllm_ext.builder.finishing import finish_directory
from trtllm_ext.builder.network_plugins import plugins_of
from trtllm_ext.builder.rank_build import Progress, RankJob, build_rank, silent
from trtllm_ext.builder.rank_check import check_can_run_ranks
from trtllm_ext.builder.together import build_together
from trtllm_ext.builder.trace import save_timing_cache, trace
from trtllm_ext.builder.workers import build_in_workers
from trtllm_ext.checkpoint import load_config
from trtllm_ext.errors import BuildError, ConfigError
from trtllm_ext.parallel import Communicator
from trtllm_ext.runtime.atomic import replaced_directory
from trtllm_ext.runtime.engine_dir import ENGINE_DIRECTORY


def build(model: Any, build_config: BuildConfig | None = None) -> Engine:
    """Build an engine of a model (one rank's), in memory; `Engine.save` writes the engine directory.

    model: has `config`, `limits`, `named_parameters()`, `prepare_inputs(**limits)` and `forward(**inputs)`, as
    the classes of `trtllm_ext.models` do.
    Raises ConfigError for limits that do not fit the model, BuildError when the network cannot be built.
    """
    traced = trace(model, build_config or BuildConfig())
    engine = None
    if not traced.build_config.dry_run:
        engine = traced.builder.build_engine(traced.network, traced.builder_config)
        # As this writes no directory, it leaves no file that nobody asked for.
        if "output_timing_cache" in traced.build_config.given:
            save_timing_cache(traced)
    inputs, outputs = summarize(traced.network)
    plugins = plugins_of(traced.network.trt_network)
    return Engine(traced.engine_config(model), engine, _rank_of(model), inputs, outputs, plugins)


def build_engine_dir(
    checkpoint_dir: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    build_config: BuildConfig | None = None,
    *,
    allow_nan: bool = False,
    progress: Progress | None = None,
    workers: int = 1,
    communicator: Communicator | None = None,
) -> None:
    """Build the engines of all ranks of a checkpoint into an engine directory, which appears whole or not at all.

    Engines go to the disk as they are made, so that memory holds little beside the weights. An engine of several ranks
    is tried at the end, all ranks in this process, and the answer is kept beside it (`runtime.ranks.self_test`).
    allow_nan: accept NaN and infinity in weights. progress: see `Progress`; what it raises ends the build.
    workers: processes of this machine that build ranks at the same time.
    communicator: of processes that have all called this, such as `parallel.world()`; they share out the ranks, and
    need one file system. Their number need not be the engine's number of ranks.
    Raises CheckpointError, ConfigError, BuildError; among the last: output_dir not writable, disk full, a second
    build into the same directory at the same time. With a communicator every process raises what one has met.
    """
    checkpoint, asked = Path(checkpoint_dir), build_config or BuildConfig()
    alone = communicator is None or communicator.world_size == 1
    _check_arguments(checkpoint, output_dir, asked, workers, alone)
    tell = progress or silent

    def job(staging: Path, build_id: str) -> RankJob:
        world_size = load_config(checkpoint).mapping.world_size
        check_can_run_ranks(world_size)
        return RankJob(checkpoint, staging, os.fspath(output_dir), asked, allow_nan, build_id, world_size)

    if not alone:
        assert communicator is not None
        build_together(communicator, output_dir, job, _finish, tell)
        return
    with replaced_directory(output_dir, ENGINE_DIRECTORY) as staging:
        order = job(staging, new_build_id())
        if workers > 1 and order.world_size > 1:
            configs = build_in_workers(order, workers, tell)
        else:
            configs = [build_rank(order, rank, tell) for rank in range(order.world_size)]
        _finish(order, configs, tell)


def _check_arguments(
    checkpoint: Path, output_dir: str | os.PathLike[str], asked: BuildConfig, workers: int, alone: bool
) -> None:
    if asked.dry_run:
        raise ConfigError(
            "dry_run=True builds nothing, so there is no engine directory to write. Use plan_build (`trtllm-ext build "
            "--dry_run`) to check a checkpoint, or leave dry_run out."
        )
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise ConfigError(f"workers={workers!r} is not a number of processes; give 1 or more.")
    if workers > 1 and not alone:
        raise ConfigError(
            f"workers={workers} is refused where several processes were started to build together: they are the "
            f"workers. Leave it out, or start one process."
        )
    if Path(output_dir).resolve() == checkpoint.resolve():
        raise BuildError(f"output_dir {output_dir} is the checkpoint itself; give another directory.")


def _finish(job: RankJob, configs: Iterable[dict[str, Any]], tell: Progress) -> None:
    """What makes the engines of all ranks one directory. configs: of each rank, as `build_rank` returns them."""
    first, *others = configs
    config = EngineConfig.from_dict(first)
    for rank, other in enumerate(others, start=1):
        config.check_agrees(rank, other)
    finish_directory(
        job.staging,
        job.output_dir,
        config,
        job.checkpoint_dir,
        tell,
        is_stripped=config.build_config.use_strip_plan,
    )


def _rank_of(model: Any) -> int:
    return int(getattr(getattr(model.config, "mapping", None), "rank", 0))
