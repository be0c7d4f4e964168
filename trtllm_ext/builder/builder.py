"""Builder: networks, builder configs and engines, with TensorRT-LLM's names."""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from trtllm_ext import backend, graph
from trtllm_ext.builder.monitor import Teller, can_be_watched, progress_monitor
from trtllm_ext.builder.network_plugins import spare_handles, tell_of_unused_plugins
from trtllm_ext.builder.profiles import add_profiles
from trtllm_ext.builder.refittable import mark_refittable
from trtllm_ext.builder.tensorrt_settings import apply_settings, keep_to_basic_fusion, set_flag, warn_of_slips
from trtllm_ext.builder.timing_cache import attach_timing_cache, write_timing_cache
from trtllm_ext.builder.way_out import way_out
from trtllm_ext.errors import BuildError, ConfigError
from trtllm_ext.graph.either import check_filled
from trtllm_ext.runtime.trt_log import recording_logger

_PRECISIONS = ("float32", "float16", "bfloat16")


class BuilderConfig:
    """A `trt.IBuilderConfig` with the settings it was made from; extra settings are attributes.

    Made by `Builder.create_builder_config`.
    """

    def __init__(self, trt_builder_config: Any, settings: dict[str, Any]) -> None:
        self.trt_builder_config = trt_builder_config
        self.settings = settings
        # What `Builder.report_progress` put on the config, kept alive as long as it.
        self.monitor: Any = None
        for name, value in settings.items():
            setattr(self, name, value)

    @property
    def fusion_level(self) -> str | None:
        """'basic' or 'all': how far the embedded engine fuses. None for NVIDIA's, which chooses by timing."""
        if backend.choice().engine != "embedded":
            return None
        from trtllm_ext.embedded.fusion import fusion_level_of

        return fusion_level_of(self.trt_builder_config.builder_optimization_level)

    @property
    def is_refittable(self) -> bool:
        """Whether an engine built with this lets its weights be exchanged."""
        return bool(self.settings.get("use_refit") or self.settings.get("use_strip_plan"))

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain data."""
        return dict(self.settings)


class Builder:
    """Makes networks and builds engines from them, on whichever TensorRT is in use.

    `strongly_typed` says which kind of network `create_network` makes (True where the library has both).
    """

    def __init__(self) -> None:
        self._trt = backend.tensorrt()
        self.logger = recording_logger(self._trt)
        try:
            self.trt_builder = self._trt.Builder(self.logger.given)
        except (TypeError, RuntimeError) as problem:  # what a failing C++ factory becomes
            raise BuildError(
                f"TensorRT's builder does not start: {self.logger.errors_since(0) or problem}"
            ) from problem
        self.strongly_typed = hasattr(self._trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")

    def create_network(self) -> graph.Network:
        """An empty network, to be filled inside `net_guard(network)`."""
        kinds = self._trt.NetworkDefinitionCreationFlag
        flags = 0
        # Where builders know implicit batches, a network has one unless told; elsewhere the flag is only warned about.
        if hasattr(kinds, "EXPLICIT_BATCH") and hasattr(self._trt.Builder, "max_batch_size"):
            flags |= 1 << int(kinds.EXPLICIT_BATCH)
        if self.strongly_typed and hasattr(kinds, "STRONGLY_TYPED"):
            flags |= 1 << int(kinds.STRONGLY_TYPED)
        mark = self.logger.mark()
        trt_network = self.trt_builder.create_network(flags)
        if trt_network is None:
            raise BuildError(f"TensorRT made no network: {self.logger.errors_since(mark)}")
        if backend.choice().graph == "tensorrt_llm":
            return graph.Network()._init(trt_network)  # type: ignore[call-arg, attr-defined]
        return graph.Network(trt_network, self.logger)

    def create_builder_config(
        self,
        precision: str,
        timing_cache: Any = None,
        tensor_parallel: int = 1,
        use_refit: bool = False,
        int8: bool = False,
        strongly_typed: bool = True,
        force_num_profiles: int | None = None,
        profiling_verbosity: str = "layer_names_only",
        use_strip_plan: bool = False,
        weight_streaming: bool = False,
        precision_constraints: str | None = "obey",
        deterministic: bool = False,
        **kwargs: Any,
    ) -> BuilderConfig:
        """Settings for `build_engine`.

        precision: 'float32', 'float16' or 'bfloat16'; only recorded for strongly typed networks, which say
        their types themselves. Weakly typed ones get the builder flag, and keep to each layer's precision.
        timing_cache: path, `trt.ITimingCache`, or None for a fresh one. A path that does not exist is created
        by `save_timing_cache`.
        strongly_typed: False also turns `Builder.strongly_typed` off, so call this before `create_network`.
        deterministic: keep to optimisations after which marking more outputs changes no number; embedded engine only.
        kwargs: settings with the names of BuildConfig (`tensorrt_settings.DEFAULTS`), and whatever is to be kept as an
        attribute; names that look like a slip for a setting are warned of.
        Raises ConfigError for a value that is not known, or that the engine in use has nothing for.
        """
        if precision not in _PRECISIONS:
            raise ConfigError(f"precision={precision!r} is not known; it is one of {', '.join(_PRECISIONS)}.")
        if int8:
            raise ConfigError(
                "int8=True needs quantised weights, which no checkpoint here has. Leave it out."
            )
        if precision_constraints not in ("obey", "prefer", None):
            raise ConfigError(
                f"precision_constraints={precision_constraints!r} is not known; it is 'obey', 'prefer' or None."
            )
        config = self.trt_builder.create_builder_config()
        self.strongly_typed = self.strongly_typed and strongly_typed
        if not self.strongly_typed:
            self._set_precision(config, precision, precision_constraints)
        asked = {
            "use_refit": use_refit,
            "profiling_verbosity": profiling_verbosity,
            "use_strip_plan": use_strip_plan,
            "weight_streaming": weight_streaming,
            **kwargs,
        }
        warn_of_slips(kwargs, inspect.signature(self.create_builder_config).parameters)
        told = {"precision_constraints": precision_constraints, "timing_cache": timing_cache}
        apply_settings(self._trt, config, {**asked, **told})
        if deterministic:
            keep_to_basic_fusion(config, asked.get("builder_optimization_level"))
        attach_timing_cache(config, timing_cache, self.logger)
        settings = {
            "precision": precision,
            "tensor_parallel": tensor_parallel,
            "int8": int8,
            "strongly_typed": self.strongly_typed,
            "force_num_profiles": force_num_profiles,
            "precision_constraints": precision_constraints,
            "deterministic": deterministic,
            **asked,
        }
        return BuilderConfig(config, settings)

    def _set_precision(self, config: Any, precision: str, precision_constraints: str | None) -> None:
        """Flags by which a weakly typed network may compute in `precision`, and keeps to what its layers say."""
        setting = f"precision={precision!r} in a weakly typed network"
        if hasattr(self._trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
            way_out = "Leave strongly_typed at true"
        else:
            way_out = "Use float32 or float16, or install a newer TensorRT"
        wanted = {"float16": "FP16", "bfloat16": "BF16"}.get(precision)
        if wanted:
            set_flag(self._trt, config, wanted, setting, way_out)
        if precision_constraints:
            set_flag(
                self._trt, config, f"{precision_constraints.upper()}_PRECISION_CONSTRAINTS", setting, way_out
            )

    def report_progress(self, builder_config: BuilderConfig, tell: Teller) -> bool:
        """Have `tell` told the phases of builds with this config; False where the library tells of none (8.6).

        What `tell` raises ends the build, and comes out of `build_engine`.
        """
        config = builder_config.trt_builder_config
        if not can_be_watched(self._trt, config):
            return False
        config.progress_monitor = builder_config.monitor = progress_monitor(self._trt, tell)
        return True

    def build_engine(
        self, network: graph.Network, builder_config: BuilderConfig, managed_weights: Any = None
    ) -> Any:
        """Build; returns the serialized engine, a `trt.IHostMemory` with the buffer protocol.

        Profiles come from the inputs' `dim_range` unless the config has some.
        Raises BuildError with what TensorRT logged.
        """
        if managed_weights is not None:
            raise ConfigError("managed_weights is not offered: weights are part of the engine here.")
        config = self._prepared(network, builder_config)
        mark = self.logger.mark()
        with _is_building():
            engine = self.trt_builder.build_serialized_network(network.trt_network, config)
        _raise_what_ended(builder_config)
        if engine is None:
            raise self._failed(mark, builder_config)
        return engine

    def build_engine_to(self, network: graph.Network, builder_config: BuilderConfig, writer: Any) -> None:
        """Build and write the engine to `writer.write(bytes)`, in pieces where the library can.

        Where it can (`build_serialized_network_to_stream`), the engine is never in memory as a whole.
        Raises BuildError with what TensorRT logged, or what `writer` met (its `problem`).
        """
        config = self._prepared(network, builder_config)
        mark = self.logger.mark()
        with _is_building():
            if hasattr(self.trt_builder, "build_serialized_network_to_stream") and hasattr(
                self._trt, "IStreamWriter"
            ):
                stream = _stream_writer(self._trt, writer)
                done = self.trt_builder.build_serialized_network_to_stream(
                    network.trt_network, config, stream
                )
            else:
                engine = self.trt_builder.build_serialized_network(network.trt_network, config)
                done = engine is not None and writer.write(memoryview(engine)) == engine.nbytes
        if writer.problem is not None:
            raise writer.problem
        _raise_what_ended(builder_config)
        if not done:
            raise self._failed(mark, builder_config)

    def _prepared(self, network: graph.Network, builder_config: BuilderConfig) -> Any:
        config = builder_config.trt_builder_config
        if not network.get_outputs():
            raise BuildError("the network has no output; mark one with tensor.mark_output(name).")
        check_filled(network)
        tell_of_unused_plugins(network)
        spare_handles(network.trt_network, config)
        if config.num_optimization_profiles == 0:
            add_profiles(self.trt_builder, network, config, builder_config.settings.get("force_num_profiles"))
        if builder_config.is_refittable:
            mark_refittable(network)
        return config

    def _failed(self, mark: int, builder_config: BuilderConfig) -> BuildError:
        told = self.logger.errors_since(mark) or "no reason was logged"
        return BuildError(f"the engine could not be built: {told}{way_out(told, builder_config.settings)}")

    @staticmethod
    def save_timing_cache(builder_config: BuilderConfig, out_path: str | os.PathLike[str]) -> bool:
        """Write the config's timing cache to a file, whole or not at all; False when it has none. Raises BuildError."""
        return write_timing_cache(builder_config.trt_builder_config, out_path)


def _raise_what_ended(builder_config: BuilderConfig) -> None:
    """Raise what the build's watcher raised, and ended it by."""
    if builder_config.monitor is not None and builder_config.monitor.problem is not None:
        problem: BaseException = builder_config.monitor.problem
        builder_config.monitor.problem = None
        raise problem


def _stream_writer(trt: Any, writer: Any) -> Any:
    class Stream(trt.IStreamWriter):
        def __init__(self) -> None:
            trt.IStreamWriter.__init__(self)

        def write(self, data: Any, size: int | None = None) -> int:
            return int(writer.write(data if size is None else memoryview(data)[:size]))

    return Stream()


_builds_lock = threading.Lock()
_num_builds = 0


@contextmanager
def _is_building() -> Iterator[None]:
    """While NVIDIA's engine is being built by any thread, IS_BUILDING is set, as TensorRT-LLM sets it.

    Its collective plugins open communicators when they see their layer, unless it is.
    """
    global _num_builds
    if backend.choice().engine != "tensorrt":
        yield
        return
    with _builds_lock:
        _num_builds += 1
        os.environ["IS_BUILDING"] = "1"
    try:
        yield
    finally:
        with _builds_lock:
            _num_builds -= 1
            if not _num_builds:
                os.environ.pop("IS_BUILDING", None)
