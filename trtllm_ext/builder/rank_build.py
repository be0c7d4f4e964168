"""One rank's engine: from its share of a checkpoint to its files in the directory that a build fills."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from trtllm_ext import errors, models
from trtllm_ext.builder.build_config import BuildConfig
from trtllm_ext.builder.engine import summarize, write_envelope
from trtllm_ext.builder.engine_writer import EngineWriter
from trtllm_ext.builder.network_plugins import plugins_of
from trtllm_ext.builder.trace import save_timing_cache, trace
from trtllm_ext.errors import BuildError, TrtllmExtError
from trtllm_ext.runtime import own_plugins
from trtllm_ext.runtime.atomic import write_errors
from trtllm_ext.runtime.envelope import engine_name

# Told what is being done ("rank 0: building") and how many bytes of it are written.
Progress = Callable[[str, int], None]


def silent(step: str, done: int) -> None:
    """The progress that nobody is told of."""


@dataclass(frozen=True)
class RankJob:
    """What every rank of a build is told, whichever process builds it.

    staging: the directory that the engines go to. output_dir: its name in messages, where it will be at the end.
    plugin_library: what `own_plugins.use` was told, for processes that are started to build.
    """

    checkpoint_dir: Path
    staging: Path
    output_dir: str
    build_config: BuildConfig
    allow_nan: bool
    build_id: str
    world_size: int
    plugin_library: Path | None = field(default_factory=own_plugins.asked_for)


def build_rank(job: RankJob, rank: int, tell: Progress) -> dict[str, Any]:
    """Write a rank's engine and envelope into `job.staging`; returns the stored form of its EngineConfig.

    Raises what `build_engine_dir` does, with the rank named where there are several.
    """
    try:
        return _build(job, rank, tell)
    except TrtllmExtError as problem:
        if job.world_size == 1:
            raise
        raise named(rank, problem) from problem


def _build(job: RankJob, rank: int, tell: Progress) -> dict[str, Any]:
    tell(f"rank {rank}: reading the checkpoint", 0)
    model = model_of_rank(job.checkpoint_dir, rank, job.build_config, job.allow_nan)
    tell(f"rank {rank}: defining the network", 0)
    traced = trace(model, job.build_config)
    config = traced.engine_config(model, job.build_id)
    step = f"rank {rank}: building"
    tell(step, 0)
    traced.builder.report_progress(
        traced.builder_config, lambda phase: tell(f"{step}, {phase}" if phase else step, 0)
    )
    with EngineWriter(job.staging / engine_name(rank), job.output_dir, partial(tell, step)) as writer:
        traced.builder.build_engine_to(traced.network, traced.builder_config, writer)
        inputs, outputs = summarize(traced.network)
        with write_errors(job.output_dir, BuildError):
            write_envelope(
                job.staging, config, rank, inputs, outputs, writer, plugins_of(traced.network.trt_network)
            )
    if rank == 0:  # ranks differ in their weights only, so one rank's timings are all of them
        save_timing_cache(traced)
    return config.as_stored()


def model_of_rank(checkpoint_dir: Path, rank: int, build_config: BuildConfig, allow_nan: bool) -> Any:
    """A rank's model with its weights, in the form that the build config asks for."""
    options = model_options(build_config)
    return models.model_from_checkpoint(checkpoint_dir, rank=rank, allow_nan=allow_nan, **options)


def model_options(build_config: BuildConfig) -> dict[str, Any]:
    """What of a build config is a matter of the model's classes."""
    return {"sequence_parallel": True} if build_config.sequence_parallel else {}


def named(rank: int, problem: TrtllmExtError) -> TrtllmExtError:
    """The same error with the rank in its sentence."""
    return revived(type(problem).__name__, f"rank {rank}: {problem}")


def revived(kind: str, text: str) -> TrtllmExtError:
    """An error from the name of its class and its sentence, as another process has told them."""
    found = getattr(errors, kind, None)
    if isinstance(found, type) and issubclass(found, TrtllmExtError):
        return found(text)
    return BuildError(text)


def told(rank: int, problem: Exception) -> tuple[str, str]:
    """The reverse of `revived`. What nobody raised on purpose is told with its class and names the rank."""
    if isinstance(problem, TrtllmExtError):
        return type(problem).__name__, str(problem)
    first = (str(problem).strip().splitlines() or ["no text"])[0]
    return "BuildError", f"rank {rank}: {type(problem).__name__}: {first} (not expected)."
