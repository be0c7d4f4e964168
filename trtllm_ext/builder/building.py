"""From a model, or from a checkpoint directory, to an engine."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from trtllm_ext import backend, graph, models
from trtllm_ext.builder.build_config import BuildConfig
from trtllm_ext.builder.builder import Builder, BuilderConfig
from trtllm_ext.builder.engine import Engine, EngineConfig, summarize, write_descriptions
from trtllm_ext.builder.engine_writer import EngineWriter
from trtllm_ext.builder.limits import prepare_inputs_arguments, resolve_limits
from trtllm_ext.builder.taps import Tap, mark_taps
from trtllm_ext.checkpoint.directory import COMPANIONS, copy_companions
from trtllm_ext.errors import BuildError, ConfigError
from trtllm_ext.runtime.atomic import replaced_directory, write_errors
from trtllm_ext.runtime.engine_dir import ENGINE_DIRECTORY
from trtllm_ext.runtime.envelope import engine_name

# Told what is being done ("rank 0: building") and how many bytes of it are written.
Progress = Callable[[str, int], None]


@dataclass(frozen=True)
class Traced:
    """A model written down as a network, ready to be built."""

    builder: Builder
    network: Any
    builder_config: BuilderConfig
    build_config: BuildConfig
    taps: dict[str, Tap]

    def engine_config(self, model: Any) -> EngineConfig:
        """What the engine's config.json will say."""
        return EngineConfig(
            model.config.to_dict(),
            self.build_config,
            taps=self.taps,
            fusion_level=self.builder_config.fusion_level,
        )


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
        _save_timing_cache(traced)
    inputs, outputs = summarize(traced.network)
    return Engine(traced.engine_config(model), engine, _rank_of(model), inputs, outputs)


def build_engine_dir(
    checkpoint_dir: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    build_config: BuildConfig | None = None,
    *,
    allow_nan: bool = False,
    progress: Progress | None = None,
) -> None:
    """Build the engines of all ranks of a checkpoint into an engine directory, which appears whole or not at all.

    Engines go to the disk as they are made, so that memory holds little beside the weights.
    allow_nan: accept NaN and infinity in weights. progress: see `Progress`; what it raises ends the build.
    Raises CheckpointError, ConfigError, BuildError; among the last: output_dir not writable, disk full, a second
    build into the same directory at the same time.
    """
    checkpoint, asked = Path(checkpoint_dir), build_config or BuildConfig()
    tell = progress or _silent
    if asked.dry_run:
        raise ConfigError(
            "dry_run=True builds nothing, so there is no engine directory to write. Use check_build (`trtllm-ext build "
            "--dry_run`) to check a checkpoint, or leave dry_run out."
        )
    if Path(output_dir).resolve() == checkpoint.resolve():
        raise BuildError(f"output_dir {output_dir} is the checkpoint itself; give another directory.")
    with replaced_directory(output_dir, ENGINE_DIRECTORY) as staging:
        config: EngineConfig | None = None
        rank, world_size = 0, 1
        while rank < world_size:
            tell(f"rank {rank}: reading the checkpoint", 0)
            model = models.model_from_checkpoint(checkpoint, rank=rank, allow_nan=allow_nan)
            tell(f"rank {rank}: defining the network", 0)
            traced = trace(model, asked)
            if config is None:
                config = traced.engine_config(model)
                world_size = config.world_size
            step = f"rank {rank}: building"
            tell(step, 0)
            with EngineWriter(staging / engine_name(rank), output_dir, partial(tell, step)) as writer:
                traced.builder.build_engine_to(traced.network, traced.builder_config, writer)
                inputs, outputs = summarize(traced.network)
                with write_errors(output_dir, BuildError):
                    write_descriptions(staging, config, rank, inputs, outputs, writer)
            _save_timing_cache(traced)
            rank += 1
        companions = [checkpoint / name for name in COMPANIONS if (checkpoint / name).is_file()]
        with write_errors(output_dir, BuildError):
            copy_companions(companions, staging)


def check_build(
    checkpoint_dir: str | os.PathLike[str],
    build_config: BuildConfig | None = None,
    *,
    allow_nan: bool = False,
) -> Engine:
    """A dry run: everything up to the network of rank 0, without building; the result has no engine."""
    model = models.model_from_checkpoint(Path(checkpoint_dir), rank=0, allow_nan=allow_nan)
    return build(model, (build_config or BuildConfig()).updated(dry_run=True))


def trace(model: Any, build_config: BuildConfig) -> Traced:
    """Write a model down as a network, with the profiles that the limits ask for."""
    for name in ("config", "named_parameters", "prepare_inputs", "forward"):
        if not hasattr(model, name):
            raise ConfigError(
                f"build() takes a model with config, named_parameters, prepare_inputs and forward; a "
                f"{type(model).__name__} has no {name}. For a bare Module, define a network inside net_guard and use "
                f"Builder.build_engine."
            )
    limits = resolve_limits(
        build_config,
        used=_limits_of(model),
        max_position_embeddings=_positions_of(model),
        model=f"the {type(model).__name__}",
    )
    builder = Builder()
    builder.strongly_typed = builder.strongly_typed and limits.strongly_typed
    cache = limits.input_timing_cache
    if cache is not None and not Path(cache).is_file():
        raise ConfigError(f"input_timing_cache={cache!r} does not exist. Leave it out for a fresh one.")
    if "output_timing_cache" in limits.given and not Path(limits.output_timing_cache).parent.is_dir():
        raise ConfigError(
            f"output_timing_cache={limits.output_timing_cache!r}: there is no directory "
            f"{Path(limits.output_timing_cache).parent}. Create it first."
        )
    builder_config = builder.create_builder_config(
        precision=model.config.dtype,
        timing_cache=cache,
        strongly_typed=builder.strongly_typed,
        force_num_profiles=limits.force_num_profiles,
        profiling_verbosity=limits.profiling_verbosity,
        deterministic=limits.deterministic,
    )
    network = builder.create_network()
    network.set_named_parameters(model.named_parameters())
    with graph.net_guard(network):
        inputs = model.prepare_inputs(**prepare_inputs_arguments(limits, model.prepare_inputs))
        model(**inputs)
        if not network.get_outputs():
            raise BuildError(
                f"the {type(model).__name__} marked no output; its forward must call tensor.mark_output(name)."
            )
        taps = mark_taps(network, model, limits.tap_patterns)
    return Traced(builder, network, builder_config, limits, taps)


def _limits_of(model: Any) -> frozenset[str]:
    # A model of TensorRT-LLM does not say; all of its limits are taken to count.
    everything = ("max_batch_size", "opt_batch_size", "max_input_len", "max_num_tokens", "opt_num_tokens")
    return frozenset(getattr(model, "limits", everything))


def _positions_of(model: Any) -> int | None:
    # A model of TensorRT-LLM has the rows of its table alone, of which ours may keep some free.
    positions = getattr(model.config, "num_positions", None)
    return positions or getattr(model.config, "max_position_embeddings", None)


def _rank_of(model: Any) -> int:
    return int(getattr(getattr(model.config, "mapping", None), "rank", 0))


def _save_timing_cache(traced: Traced) -> None:
    # trtllm-build always leaves model.cache in the current directory; here it is written where timings exist,
    # or where it was asked for.
    config = traced.build_config
    if backend.choice().engine == "tensorrt" or "output_timing_cache" in config.given:
        try:
            Builder.save_timing_cache(traced.builder_config, config.output_timing_cache)
        except OSError as problem:
            raise BuildError(
                f"the timing cache cannot be written to {config.output_timing_cache}: {problem}."
            ) from problem


def _silent(step: str, done: int) -> None:
    return
