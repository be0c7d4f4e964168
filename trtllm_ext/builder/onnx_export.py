"""A network as an ONNX file, for Netron, Polygraphy, trtexec and whatever else reads ONNX."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtllm_ext import backend, models
from trtllm_ext.builder.build_config import BuildConfig
from trtllm_ext.builder.engine import EngineConfig, summarize
from trtllm_ext.builder.rebuilding import for_this_process
from trtllm_ext.builder.same_model import check_same_model
from trtllm_ext.builder.trace import Traced, trace
from trtllm_ext.checkpoint import load_config, load_whole
from trtllm_ext.errors import BuildError, ConfigError
from trtllm_ext.graph.known import Known, known_of
from trtllm_ext.runtime import EngineDir
from trtllm_ext.runtime.atomic import file_target, write_errors
from trtllm_ext.runtime.envelope import TensorSummary
from trtllm_ext.version import __version__

if TYPE_CHECKING:
    from trtllm_ext.lowering import Expansion, OnnxSegment

# A protobuf message has at most 2 GiB; the graph itself needs some of it.
MOST_INSIDE_BYTES = 2**31 - 2**26


@dataclass(frozen=True)
class ExportedModel:
    """An ONNX file. data_file: with the weights, beside it; None if they are inside. sizes in bytes."""

    path: Path
    data_file: Path | None
    opset: int
    num_nodes: int
    model_bytes: int
    data_bytes: int
    inputs: tuple[TensorSummary, ...]
    outputs: tuple[TensorSummary, ...]


def export_onnx(
    checkpoint_dir: str | os.PathLike[str],
    path: str | os.PathLike[str],
    build_config: BuildConfig | None = None,
    *,
    engine_dir: str | os.PathLike[str] | None = None,
    external_data: bool | None = None,
    allow_nan: bool = False,
) -> ExportedModel:
    """Write the network of a checkpoint's model as ONNX.

    A checkpoint of several ranks is exported as the whole model, its weights put together: ONNX has no collectives.
    build_config: limits and taps, as for an engine. engine_dir: take them from an engine's config.json instead.
    external_data, and what else can go wrong: as of `export_network`.
    Raises CheckpointError, ConfigError, EngineError as well.
    """
    if engine_dir is not None:
        if build_config is not None:
            raise ConfigError(
                "build_config and engine_dir both say how the network is built; give one of them."
            )
        build_config = _config_of(engine_dir, checkpoint_dir)
    whole = load_whole(checkpoint_dir, allow_nan=allow_nan)
    model = models.model_from_config(whole.config)
    model.load(whole.weights)
    # Plugins would be written as the same plain layers, and TensorRT would need their library for it.
    config = (build_config or BuildConfig()).updated(sequence_parallel=False, plugin_config={})
    traced = trace(model, config)
    description = whole.config.to_dict()
    metadata = {
        "architecture": str(description.get("architecture", "")),
        "contract": json.dumps(description.get("contract")),
        "dtype": whole.config.dtype,
        "taps": json.dumps({name: tap.meaning for name, tap in traced.taps.items()}),
        **_surgery_of(traced),
    }
    return export_network(traced.network, path, external_data=external_data, metadata=metadata)


def _surgery_of(traced: Traced) -> dict[str, str]:
    """Of the inputs that an engine's run may leave out, and a run of the ONNX file may not: what changes nothing."""
    values = {name: each.value for point in traced.surgery.values() for name, each in point.inputs.items()}
    return {"surgery": json.dumps(values)} if values else {}


def export_network(
    network: Any,
    path: str | os.PathLike[str],
    *,
    external_data: bool | None = None,
    metadata: Mapping[str, str] | None = None,
) -> ExportedModel:
    """Write a `graph.Network` as ONNX, of standard operators alone, its plugin layers as what was recorded of them.

    What an engine computes in float16 or bfloat16 is written as float32 arithmetic with a cast at each layer's edge, as
    the embedded engine runs it: inputs, outputs and weights keep their types.
    external_data: True puts the weights into `<path>.data` beside the model, False inside it; None does whichever fits.
    metadata: more metadata_props; their keys get the prefix `trtllm_ext.`.
    The files are checked by onnx before they take the place of earlier ones.
    Raises BuildError: a plugin without a recorded expansion, a collective, a layer that ONNX has no form for, a path
    that cannot be written.
    """
    from trtllm_ext.lowering import LoweringError, lower
    from trtllm_ext.lowering.portable import only_segment

    target = file_target(path, BuildError)
    known = known_of(network)
    expansions = _expansions(known)
    try:
        lowered = lower(
            network.trt_network,
            backend.tensorrt(),
            _min_shapes(network),
            expansions=expansions,
            weights=known.weights,
            standard=True,
        )
        segment = only_segment(lowered)
    except LoweringError as problem:
        raise BuildError(f"the network cannot be exported: {problem}") from problem
    num_bytes = sum(weight.data.nbytes for weight in segment.weights)
    if external_data is False and num_bytes > MOST_INSIDE_BYTES:
        raise BuildError(
            f"{num_bytes} bytes of weights do not fit into one ONNX file, which takes 2 GiB; let external_data be True."
        )
    beside = num_bytes > MOST_INSIDE_BYTES if external_data is None else external_data
    inputs, outputs = summarize(network)
    props = {**(metadata or {}), "version": __version__, "profiles": json.dumps(_profiles(inputs))}
    named = {f"trtllm_ext.{key}": value for key, value in sorted(props.items())}
    opset, model_bytes = _write(target, segment, beside, named)
    return ExportedModel(
        target,
        _data_file(target) if beside else None,
        opset,
        len(segment.model.graph.node),
        model_bytes,
        num_bytes if beside else 0,
        inputs,
        outputs,
    )


def _write(target: Path, segment: OnnxSegment, beside: bool, metadata: Mapping[str, str]) -> tuple[int, int]:
    """Write, check, and put in place; the opset, and the size of the model's file."""
    import onnx

    from trtllm_ext.lowering.portable import data_blocks, portable_model

    data = _data_file(target)
    model = portable_model(segment, data_file=data.name if beside else None, metadata=metadata)
    model.producer_version = __version__
    with (
        write_errors(target, BuildError),
        tempfile.TemporaryDirectory(prefix=f".{target.name}.writing-", dir=target.parent) as folder,
    ):
        written, written_data = Path(folder, target.name), Path(folder, data.name)
        if beside:
            with written_data.open("wb") as file:
                for _, offset, block in data_blocks(segment):
                    file.seek(offset)
                    file.write(block)
        written.write_bytes(model.SerializeToString())
        onnx.checker.check_model(str(written), full_check=True)
        size = written.stat().st_size
        if beside:
            written_data.replace(data)
        written.replace(target)
        if not beside:
            data.unlink(missing_ok=True)
    return model.opset_import[0].version, size


def _data_file(target: Path) -> Path:
    return target.with_name(f"{target.name}.data")


def _expansions(known: Known) -> dict[str, Expansion]:
    from trtllm_ext.lowering import Expansion

    expansions = {}
    for name, inner in known.expansions.items():
        told = known_of(inner)
        expansions[name] = Expansion(inner.trt_network, told.weights, _expansions(told))
    return expansions


def _min_shapes(network: Any) -> dict[str, tuple[int, ...]]:
    """The least length of each dimension of the inputs; what a profile says is never 0 need not be written for it."""
    return {
        each.name: tuple(
            min(lengths) for lengths in zip(*(profile[0] for profile in each.profiles), strict=True)
        )
        for each in summarize(network)[0]
        if each.profiles
    }


def _profiles(inputs: tuple[TensorSummary, ...]) -> dict[str, list[list[tuple[int, ...]]]]:
    """By input, (min, opt, max) of each profile."""
    return {each.name: [list(profile) for profile in each.profiles] for each in inputs}


def _config_of(engine_dir: str | os.PathLike[str], checkpoint_dir: str | os.PathLike[str]) -> BuildConfig:
    """What an engine was built with, if it may be of that checkpoint."""
    directory = EngineDir.read(os.fspath(engine_dir), 0)
    config = EngineConfig.from_dict(directory.config)
    check_same_model(
        config.pretrained_config,
        load_config(checkpoint_dir),
        engine=engine_dir,
        checkpoint=checkpoint_dir,
        way_out="Give the checkpoint that it was built from.",
    )
    return for_this_process(config.build_config)
