"""The files of one version of a Triton model, and what Triton must know of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from trtllm_ext.builder.engine import EngineConfig
from trtllm_ext.builder.onnx_export import export_onnx
from trtllm_ext.builder.triton.batching import Batching, batching_of
from trtllm_ext.builder.triton.config import CONFIG_NAME
from trtllm_ext.builder.triton.libraries import libraries_of
from trtllm_ext.errors import BuildError
from trtllm_ext.runtime import EngineDir
from trtllm_ext.runtime.atomic import write_errors
from trtllm_ext.runtime.envelope import Envelope, TensorSummary

PLAN, ONNX = "model.plan", "model.onnx"


@dataclass(frozen=True, kw_only=True)
class TritonModel:
    """A version of a model in a repository.

    path: its folder. file: the model in it. libraries: of plugins, beside it; Triton must be told to load them.
    config_path: config.pbtxt; has_written_config: False where an earlier one was kept.
    inputs, outputs: of full shape. batching: how requests are joined.
    server_options: of tritonserver, beside --model-repository. notes: sentences on what the model needs of Triton.
    """

    path: Path
    version: int
    file: Path
    libraries: tuple[Path, ...]
    config_path: Path
    has_written_config: bool
    inputs: tuple[TensorSummary, ...]
    outputs: tuple[TensorSummary, ...]
    batching: Batching
    server_options: tuple[str, ...]
    notes: tuple[str, ...]


def with_plan(
    directory: EngineDir,
    config: EngineConfig,
    staging: Path,
    plugin_libraries: Iterable[str | os.PathLike[str]],
) -> TritonModel:
    envelope = directory.envelope
    libraries = libraries_of(envelope, plugin_libraries)
    with write_errors(staging, BuildError):
        with directory.map_engine() as engine, (staging / PLAN).open("wb") as file:
            file.write(engine)
        for library in libraries:
            shutil.copyfile(library, staging / library.name)
    batching = batching_of(config, envelope.inputs, envelope.outputs)
    notes = [
        f"The plan is of TensorRT {envelope.engine_version} for compute capability {envelope.compute_capability}: take "
        f"a release of Triton with that TensorRT."
    ]
    if any(each.dtype == "bfloat16" for each in (*envelope.inputs, *envelope.outputs)):
        notes.append("Inputs and outputs of bfloat16 need Triton 24.07 or later.")
    return _model(staging / PLAN, envelope, batching, notes, tuple(staging / each.name for each in libraries))


def with_onnx(
    directory: EngineDir,
    config: EngineConfig,
    staging: Path,
    checkpoint_dir: str | os.PathLike[str] | None,
    external_data: bool | None,
    allow_nan: bool,
) -> TritonModel:
    assert checkpoint_dir is not None  # _check_can_be_exported
    exported = export_onnx(
        checkpoint_dir,
        staging / ONNX,
        engine_dir=directory.path,
        external_data=external_data,
        allow_nan=allow_nan,
    )
    notes = []
    if directory.envelope.world_size > 1:
        notes.append(
            f"The engine is split over {directory.envelope.world_size} ranks; the model is the whole of "
            f"it, in one process."
        )
    if any(each.dtype == "bfloat16" for each in (*exported.inputs, *exported.outputs)):
        notes.append(
            "Inputs and outputs of bfloat16 need Triton 26.03 or later, whose ONNX Runtime backend was the first to "
            "have them; for others convert with --dtype float32 or float16."
        )
    envelope = replace(directory.envelope, inputs=exported.inputs, outputs=exported.outputs)
    batching = batching_of(config, exported.inputs, exported.outputs)
    return _model(staging / ONNX, envelope, batching, notes)


def _model(
    file: Path, envelope: Envelope, batching: Batching, notes: Sequence[str], libraries: tuple[Path, ...] = ()
) -> TritonModel:
    options = []
    if envelope.engine_kind == "tensorrt" and envelope.version_compatible:
        options.append("--backend-config=tensorrt,version-compatible=true")
    return TritonModel(
        path=file.parent,
        version=0,
        file=file,
        libraries=libraries,
        config_path=file.parent / CONFIG_NAME,
        has_written_config=False,
        inputs=envelope.inputs,
        outputs=envelope.outputs,
        batching=batching,
        server_options=tuple(options),
        notes=tuple(notes),
    )


def placed(model: TritonModel, target: Path) -> TritonModel:
    """The model as it will stand in `target`."""
    libraries = tuple(target / each.name for each in model.libraries)
    named = ";".join(str(each.resolve()) for each in libraries)
    plugins = [f"--backend-config=tensorrt,plugins={named}"] if libraries else []
    return replace(
        model,
        path=target,
        version=int(target.name),
        file=target / model.file.name,
        libraries=libraries,
        config_path=target.parent / CONFIG_NAME,
        server_options=(*plugins, *model.server_options),
    )
