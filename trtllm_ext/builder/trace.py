"""A model written down as a network, with the profiles that its limits ask for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtllm_ext import backend, graph
from trtllm_ext.builder.build_config import BuildConfig
from trtllm_ext.builder.builder import Builder, BuilderConfig
from trtllm_ext.builder.engine import EngineConfig, new_build_id
from trtllm_ext.builder.limits import prepare_inputs_arguments, resolve_limits
from trtllm_ext.builder.network_plugins import ask_for_plugins, tell_of_unused_plugins
from trtllm_ext.builder.surgery import Surgeon, SurgeryPoint
from trtllm_ext.builder.taps import Tap, mark_taps
from trtllm_ext.builder.tensorrt_settings import settings_of
from trtllm_ext.checkpoint.sharding import ways_to_ranks
from trtllm_ext.errors import BuildError, ConfigError
from trtllm_ext.graph.changes import changing


@dataclass(frozen=True)
class Traced:
    """A model written down as a network, ready to be built."""

    builder: Builder
    network: Any
    builder_config: BuilderConfig
    build_config: BuildConfig
    taps: dict[str, Tap]
    surgery: dict[str, SurgeryPoint]

    def engine_config(self, model: Any, build_id: str | None = None) -> EngineConfig:
        """What the engine's config.json will say. build_id: of the build that this is a rank of; else a new one."""
        return EngineConfig(
            model.config.to_dict(),
            self.build_config,
            build_id=build_id or new_build_id(),
            taps=self.taps,
            surgery=self.surgery,
            fusion_level=self.builder_config.fusion_level,
            plugin_layers={name: record.to_dict() for name, record in _plugins_of(self.network).items()},
        )


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
        _with_sequence_parallel(model, build_config),
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
        deterministic=limits.deterministic,
        precision_constraints=limits.precision_constraints,
        **settings_of(limits),
    )
    network = builder.create_network()
    network.set_named_parameters(model.named_parameters())
    ask_for_plugins(network, limits)
    with graph.net_guard(network):
        inputs = model.prepare_inputs(**prepare_inputs_arguments(limits, model.prepare_inputs))
        surgeon = Surgeon(model, inputs, limits.surgery)
        with changing(surgeon if limits.surgery else None):
            model(**inputs)
        surgeon.check()
        if not network.get_outputs():
            raise BuildError(
                f"the {type(model).__name__} marked no output; its forward must call tensor.mark_output(name)."
            )
        taps = mark_taps(network, model, limits.tap_patterns)
    tell_of_unused_plugins(network)
    return Traced(builder, network, builder_config, limits, taps, surgeon.points)


def _with_sequence_parallel(model: Any, build_config: BuildConfig) -> BuildConfig:
    """The build config as the model was made."""
    size = getattr(getattr(model.config, "mapping", None), "tp_size", 1)
    made_so = bool(getattr(model, "sequence_parallel", False))
    if build_config.sequence_parallel and size == 1:
        raise ConfigError(
            "sequence_parallel=True has no effect with one rank: there is nobody to share the tokens with. Leave it "
            f"out, or for two ranks or more {ways_to_ranks(2)}."
        )
    if build_config.sequence_parallel and not made_so:
        raise ConfigError(
            f"sequence_parallel=True is asked of a {type(model).__name__} that was made without it. Make it with "
            f"models.model_from_checkpoint(..., sequence_parallel=True)."
        )
    return build_config.updated(sequence_parallel=True) if made_so and size > 1 else build_config


def _plugins_of(network: Any) -> dict[str, Any]:
    # A network of TensorRT-LLM's keeps the fields of its plugins to itself.
    return getattr(network, "plugins", {})


def _limits_of(model: Any) -> frozenset[str]:
    # A model of TensorRT-LLM does not say; all of its limits are taken to count.
    everything = ("max_batch_size", "opt_batch_size", "max_input_len", "max_num_tokens", "opt_num_tokens")
    return frozenset(getattr(model, "limits", everything))


def _positions_of(model: Any) -> int | None:
    # A model of TensorRT-LLM has the rows of its table alone, of which ours may keep some free.
    positions = getattr(model.config, "num_positions", None)
    return positions or getattr(model.config, "max_position_embeddings", None)


def save_timing_cache(traced: Traced) -> None:
    """Write the timing cache where there are timings, or where it was asked for. Raises BuildError."""
    # trtllm-build always leaves model.cache in the current directory; here it is written where timings exist,
    # or where it was asked for.
    config = traced.build_config
    if backend.choice().engine == "tensorrt" or "output_timing_cache" in config.given:
        Builder.save_timing_cache(traced.builder_config, config.output_timing_cache)
