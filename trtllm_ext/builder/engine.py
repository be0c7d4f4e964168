"""An engine in memory with its description, and the files both become."""

import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trtllm_ext import backend
from trtllm_ext.builder.build_config import BuildConfig
from trtllm_ext.builder.engine_writer import EngineWriter
from trtllm_ext.builder.surgery import SurgeryPoint, surgery_from_json, surgery_to_json
from trtllm_ext.builder.taps import Tap, taps_from_json, taps_to_json
from trtllm_ext.errors import BuildError, EngineError
from trtllm_ext.models import MODELS
from trtllm_ext.runtime.atomic import replaced_directory, write_errors
from trtllm_ext.runtime.device import compute_capability
from trtllm_ext.runtime.dtypes import readable
from trtllm_ext.runtime.engine_dir import CONFIG_NAME, ENGINE_DIRECTORY, EngineDir
from trtllm_ext.runtime.envelope import Envelope, PluginSummary, TensorSummary, engine_name, envelope_name
from trtllm_ext.runtime.input_defaults import InputDefault
from trtllm_ext.runtime.json_files import canonical_digest, parse_json_object, to_json
from trtllm_ext.version import __version__

_NOT_STORED = ("dry_run", "visualize_network")
# What trtllm-build stores beside limits and a build here has a use for.
_OF_ANY_NETWORK = (
    *("strongly_typed", "force_num_profiles", "profiling_verbosity", "use_refit", "use_strip_plan"),
    *("weight_sparsity", "weight_streaming"),
)


def new_build_id() -> str:
    """An identifier that no other build has: 32 hexadecimal digits."""
    return secrets.token_hex(16)


@dataclass(frozen=True)
class EngineConfig:
    """What an engine was built from; the content of an engine directory's config.json.

    pretrained_config: the model's config as in its checkpoint, contract included.
    build_id: the same in all files of one build.
    taps: outputs that were asked for beside the model's own, and what they mean.
    surgery: values that a run may change, and by which inputs.
    fusion_level: 'basic' or 'all' of the embedded engine (see BuildConfig.deterministic); None for NVIDIA's.
    plugin_layers: by the name of a layer, what was recorded of its plugin (`graph.plugin_record`): name, version,
        namespace, fields.
    """

    pretrained_config: dict[str, Any]
    build_config: BuildConfig
    version: str = __version__
    build_id: str = field(default_factory=new_build_id)
    taps: dict[str, Tap] = field(default_factory=dict)
    fusion_level: str | None = None
    plugin_layers: dict[str, dict[str, Any]] = field(default_factory=dict)
    surgery: dict[str, SurgeryPoint] = field(default_factory=dict)

    @property
    def input_defaults(self) -> dict[str, InputDefault]:
        """The inputs that a run may leave out, and what they are given then."""
        return {name: each for point in self.surgery.values() for name, each in point.inputs.items()}

    def to_dict(self) -> dict[str, Any]:
        """The JSON form. What tells of the act of building and not of the engine is left out."""
        build_config = self.build_config.to_dict()
        # TensorRT-LLM's reader wants the name of a kind, and there is no cache here.
        build_config["kv_cache_type"] = build_config["kv_cache_type"] or "DISABLED"
        return {
            "version": self.version,
            "build_id": self.build_id,
            "pretrained_config": self.pretrained_config,
            "build_config": {name: build_config[name] for name in build_config if name not in _NOT_STORED},
            "taps": taps_to_json(self.taps),
            "fusion_level": self.fusion_level,
            "plugin_layers": self.plugin_layers,
            # Of an engine without any the file is what it was before there was surgery.
            **({"surgery": surgery_to_json(self.surgery)} if self.surgery else {}),
        }

    def as_stored(self) -> dict[str, Any]:
        """The JSON form as its readers have it: tuples are lists there."""
        stored: dict[str, Any] = json.loads(to_json(self.to_dict()))
        return stored

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "EngineConfig":
        """The reverse of `to_dict`, or TensorRT-LLM's config.json; EngineError when a part is missing."""
        try:
            settings, build_id = values["build_config"], values.get("build_id")
            if build_id is None:  # TensorRT-LLM's, most of whose settings are for decoders
                counts = _counting(values["pretrained_config"].get("architecture"))
                settings = {name: value for name, value in settings.items() if name in counts}
                build_id = canonical_digest(values)[:32]
            return cls(
                values["pretrained_config"],
                BuildConfig.from_dict(settings),
                values["version"],
                build_id,
                taps_from_json(values.get("taps", {})),
                values.get("fusion_level"),
                dict(values.get("plugin_layers", {})),
                surgery_from_json(values.get("surgery", {})),
            )
        except (KeyError, TypeError) as problem:
            raise EngineError(f"the engine's config lacks {problem}.") from problem

    def check_agrees(self, rank: int, other: dict[str, Any]) -> None:
        """Raise BuildError unless `other`, rank `rank`'s config in its stored form, is this one of rank 0.

        All ranks of a build have one config: their engines are parts of one model under the same limits.
        """
        ours = self.as_stored()
        for name, differs in differences(ours, other):
            raise BuildError(
                f"rank {rank} would be built as another engine than rank 0: config {name} is {differs[1]!r:.80} there "
                f"and {differs[0]!r:.80} here. Convert the checkpoint again, and build all ranks with one version."
            )

    @property
    def world_size(self) -> int:
        """Number of ranks the model is split over."""
        mapping = self.pretrained_config.get("mapping")
        return int(mapping.get("world_size", 1)) if isinstance(mapping, dict) else 1


@dataclass(frozen=True)
class Engine:
    """A built engine. `engine` is a buffer (`trt.IHostMemory`, mmap or bytes), None after a dry run.

    plugins: those that its layers run on.
    """

    config: EngineConfig
    engine: Any
    rank: int = 0
    inputs: tuple[TensorSummary, ...] = ()
    outputs: tuple[TensorSummary, ...] = ()
    plugins: tuple[PluginSummary, ...] = ()

    def save(self, engine_dir: str | os.PathLike[str]) -> None:
        """Write the engine directory, whole or not at all; an earlier engine there is replaced.

        Raises BuildError when it cannot be written, or holds files that are not an engine's.
        """
        if self.engine is None:
            raise BuildError("this is the result of a dry run: there is no engine to save.")
        if self.config.world_size != 1:
            raise BuildError(
                f"this engine is rank {self.rank} of {self.config.world_size}; a directory needs all ranks. Use "
                f"build_engine_dir."
            )
        with (
            replaced_directory(engine_dir, ENGINE_DIRECTORY) as staging,
            EngineWriter(staging / engine_name(self.rank), engine_dir) as writer,
        ):
            writer.write(memoryview(self.engine))
            if writer.problem is not None:
                raise writer.problem
            with write_errors(engine_dir, BuildError):
                write_config(staging, self.config)
                write_envelope(
                    staging, self.config, self.rank, self.inputs, self.outputs, writer, self.plugins
                )

    @classmethod
    def from_dir(cls, engine_dir: str | os.PathLike[str], rank: int = 0) -> "Engine":
        """Read an engine directory; the engine file is mapped, not loaded. EngineError as `Session` raises it."""
        directory = EngineDir.read(os.fspath(engine_dir), rank)
        envelope = directory.envelope
        config = EngineConfig.from_dict(directory.config)
        return cls(config, directory.map_engine(), rank, envelope.inputs, envelope.outputs, envelope.plugins)

    @classmethod
    def from_buffer(cls, engine_buffer: Any, json_config_str: str, rank: int = 0) -> "Engine":
        """An engine from its bytes and the text of its config.json."""
        values = parse_json_object(json_config_str, "the engine's config", EngineError)
        return cls(EngineConfig.from_dict(values), engine_buffer, rank)


def _counting(architecture: Any) -> set[str]:
    """Those of trtllm-build's settings that count for a model: it stores all limits for every model."""
    kind = MODELS.get(str(architecture))
    return {*_OF_ANY_NETWORK, *(kind.limits if kind is not None else ())}


def write_config(directory: Path, config: EngineConfig) -> None:
    """Write config.json, the same for all ranks."""
    (directory / CONFIG_NAME).write_text(to_json(config.to_dict()), encoding="utf-8")


def write_envelope(
    directory: Path,
    config: EngineConfig,
    rank: int,
    inputs: tuple[TensorSummary, ...],
    outputs: tuple[TensorSummary, ...],
    writer: EngineWriter,
    plugins: tuple[PluginSummary, ...] = (),
) -> None:
    """Write rank `rank`'s envelope for the engine that `writer` has written. plugins: those of its layers."""
    trt, asked = backend.tensorrt(), config.build_config
    Envelope(
        engine_kind=backend.choice().engine,
        engine_version=str(getattr(trt, "__version__", __version__)),
        compute_capability=compute_capability(),
        build_id=config.build_id,
        contract_sha256=canonical_digest(config.pretrained_config.get("contract")),
        config_sha256=canonical_digest(config.as_stored()),
        rank=rank,
        world_size=config.world_size,
        engine_bytes=writer.num_bytes,
        engine_crc32=writer.crc32,
        engine_ends_sha256=writer.ends_sha256(),
        built_by=f"trtllm_ext {__version__}",
        inputs=inputs,
        outputs=outputs,
        version_compatible=asked.version_compatible,
        hardware_compatibility_level=asked.hardware_compatibility_level,
        is_stripped=asked.use_strip_plan,
        plugins=plugins,
    ).write(directory / envelope_name(rank))


def summarize(network: Any) -> tuple[tuple[TensorSummary, ...], tuple[TensorSummary, ...]]:
    """Inputs and outputs of a `graph.Network`, for the envelope."""
    declared = {tensor.name: tensor.profiles for tensor in network.get_inputs()}
    trt_network = network.trt_network
    inputs = []
    for index in range(trt_network.num_inputs):
        tensor = trt_network.get_input(index)
        profiles = declared.get(tensor.name) or []
        inputs.append(
            TensorSummary(
                name=tensor.name,
                dtype=readable(tensor.dtype),
                shape=_dims(tensor.shape),
                profiles=tuple((_dims(each.min), _dims(each.opt), _dims(each.max)) for each in profiles),
                dim_names=tuple(map(str, profiles[0].dimension_names)) if profiles else (),
            )
        )
    outputs = [trt_network.get_output(index) for index in range(trt_network.num_outputs)]
    return tuple(inputs), tuple(
        TensorSummary(name=tensor.name, dtype=readable(tensor.dtype), shape=_dims(tensor.shape))
        for tensor in outputs
    )


def differences(one: Any, other: Any, name: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Dotted names of what differs in two JSON values, and both values."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in (*one, *(key for key in other if key not in one)):
            yield from differences(one.get(key), other.get(key), f"{name}.{key}" if name else key)
    elif one != other:
        yield name, (one, other)


def _dims(dims: Any) -> tuple[int, ...]:
    return tuple(int(dim) for dim in dims)
