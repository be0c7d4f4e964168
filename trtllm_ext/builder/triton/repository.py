"""An engine directory as a model of NVIDIA's Triton Inference Server.

REPOSITORY/NAME/config.pbtxt   what Triton is told (see config.py), for all versions
REPOSITORY/NAME/1/model.plan   a TensorRT engine; beside it the libraries of its plugins
REPOSITORY/NAME/1/model.onnx   or the network of an embedded engine, for Triton's ONNX Runtime backend
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

from trtllm_ext.builder.engine import EngineConfig
from trtllm_ext.builder.triton.config import CONFIG_NAME, Existing, TritonConfig
from trtllm_ext.builder.triton.files import TritonModel, placed, with_onnx, with_plan
from trtllm_ext.errors import BuildError, ConfigError
from trtllm_ext.runtime import EngineDir, host_check
from trtllm_ext.runtime.atomic import Kind, replaced_directory, replaced_file, write_errors

ExistingConfig = Literal["keep", "overwrite"]

# Triton takes any folder's name; these are also fit for its URLs.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_WAYS = "--existing_config keep leaves the file as it is, --existing_config overwrite replaces it"
# Written once: the next export makes the next version.
_VERSION = Kind(
    what="version of a Triton model", files=re.compile(r"(?!)"), is_config=lambda _: False, error=BuildError
)


def export_triton(
    engine_dir: str | os.PathLike[str],
    repository: str | os.PathLike[str],
    *,
    model_name: str | None = None,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    plugin_libraries: Sequence[str | os.PathLike[str]] = (),
    existing_config: ExistingConfig | None = None,
    external_data: bool | None = None,
    allow_nan: bool = False,
) -> TritonModel:
    """Write an engine as the next version of a model in a Triton model repository.

    A TensorRT engine becomes model.plan, with the libraries of its plugins beside it. Of an embedded engine, which only
    this package runs, the network becomes model.onnx as `export_onnx` writes it, with the weights of `checkpoint_dir`;
    of several ranks it is the whole model.
    model_name: the folder in the repository; the engine directory's by default. Other models are left alone.
    plugin_libraries: where to look for libraries of plugins, before the package's own.
    existing_config: what becomes of a config.pbtxt that was edited, or that says something else of inputs, outputs and
        limits: "keep" leaves it as it is, "overwrite" replaces it; None refuses.
    A version appears whole or not at all, after config.pbtxt.
    Raises BuildError, ConfigError, EngineError, CheckpointError, BackendError.
    """
    directory = EngineDir.read(os.fspath(engine_dir), 0)
    config = EngineConfig.from_dict(directory.config)
    _check_can_be_exported(directory, checkpoint_dir)
    _check_settings(directory, plugin_libraries, external_data, allow_nan)
    model_dir = Path(repository) / _checked_name(model_name, directory.path)
    _check_place(model_dir.parent, directory.path)
    target = model_dir / str(_next_version(model_dir))
    _check_unedited(model_dir / CONFIG_NAME, existing_config)
    is_new, has_written_config = not model_dir.exists(), False
    try:
        with replaced_directory(target, _VERSION) as staging:
            if directory.envelope.engine_kind == "tensorrt":
                model = with_plan(directory, config, staging, plugin_libraries)
            else:
                model = with_onnx(directory, config, staging, checkpoint_dir, external_data, allow_nan)
            model = placed(model, target)
            text = _config_of(directory, config, model).text()
            if _is_to_be_written(model, text, existing_config):
                with replaced_file(model.config_path, error=BuildError) as file:
                    file.write_text(text, encoding="utf-8")
                has_written_config = True
    except BaseException:
        if is_new:  # Triton takes a folder without versions for a model that is damaged
            with suppress(OSError):
                if has_written_config:
                    (model_dir / CONFIG_NAME).unlink()
                model_dir.rmdir()
        raise
    return replace(model, has_written_config=has_written_config)


def _check_can_be_exported(directory: EngineDir, checkpoint_dir: str | os.PathLike[str] | None) -> None:
    envelope, path = directory.envelope, directory.path
    if not directory.has_envelope:
        raise BuildError(
            f"{path} was written by TensorRT-LLM's trtllm-build, and its files do not say what inputs, shapes and "
            f"plugins the engine has. Build the model with `trtllm-ext build`."
        )
    if directory.config.get("surgery"):
        raise BuildError(
            f"{path} was built with surgery, whose inputs Triton would ask of every request. Build it without "
            f"--surgery."
        )
    if envelope.engine_kind == "embedded" and checkpoint_dir is None:
        raise ConfigError(
            f"{path} is an embedded engine, which Triton does not run: its network is written as model.onnx for "
            f"Triton's ONNX Runtime backend, and the weights for that come from the checkpoint. Add --checkpoint_dir "
            f"CHECKPOINT, the one that the engine was built from."
        )
    if envelope.engine_kind == "embedded":
        return
    if checkpoint_dir is not None:
        raise ConfigError(
            f"{path} is a TensorRT engine, which Triton runs as it is; leave --checkpoint_dir out. For ONNX Runtime "
            f"on a GPU, give an embedded engine of the same checkpoint."
        )
    if envelope.world_size > 1:
        raise BuildError(
            f"{path} is split over {envelope.world_size} ranks, and an instance of Triton's TensorRT backend is one "
            f"engine on one GPU, which no other rank adds to. `trtllm-ext serve --nproc {envelope.world_size}` serves "
            f"it; or convert without --tp_size, build, and export that."
        )
    if envelope.is_stripped:
        raise BuildError(
            f"{directory.engine_path} holds no weights: it was built with use_strip_plan, and Triton does not put any "
            f"in. Fill it with {host_check.filling(str(path))}, and export that."
        )


def _check_settings(
    directory: EngineDir, plugin_libraries: Sequence[object], external_data: bool | None, allow_nan: bool
) -> None:
    """Raise ConfigError for settings of the other kind of engine, which would do nothing."""
    if directory.envelope.engine_kind == "embedded":
        given = ["--plugin_library"] if plugin_libraries else []
        reason = "an embedded engine, whose model.onnx needs no plugin library"
    else:
        given = [
            f"--{name}"
            for name, value in {"external_data": external_data, "allow_nan": allow_nan}.items()
            if value
        ]
        reason = "a TensorRT engine, whose file is taken as it is, weights included"
    if given:
        raise ConfigError(f"{directory.path} is {reason}; leave {' and '.join(given)} out.")


def _checked_name(name: str | None, engine_dir: Path) -> str:
    chosen = engine_dir.resolve().name if name is None else name
    if not _NAME.fullmatch(chosen):
        raise ConfigError(
            f"{chosen!r} cannot be a model's name: it takes letters, digits, '_', '-' and '.', and begins with one of "
            f"the first three. Set --model_name."
        )
    return chosen


def _check_place(repository: Path, engine_dir: Path) -> None:
    if repository.resolve().is_relative_to(engine_dir.resolve()):
        raise ConfigError(
            f"{repository} lies in the engine directory, which holds engines alone; give the repository a place of its "
            f"own, such as --triton models."
        )
    if (repository / CONFIG_NAME).exists():
        raise ConfigError(
            f"{repository} has a {CONFIG_NAME}: it is one model of a repository. Give the repository, "
            f"{repository.resolve().parent}, and --model_name {repository.resolve().name} for a version of that model."
        )


def _next_version(model_dir: Path) -> int:
    """One more than the latest: Triton serves the highest number by default, earlier ones where it is told to."""
    if not model_dir.is_dir():
        if model_dir.exists():
            raise BuildError(f"cannot write {model_dir}: it is a file, and a Triton model is a directory.")
        return 1
    with write_errors(model_dir, BuildError):
        names = [entry.name for entry in model_dir.iterdir()]
    return max((int(name) for name in names if re.fullmatch("[1-9][0-9]*", name)), default=0) + 1


def _config_of(directory: EngineDir, config: EngineConfig, model: TritonModel) -> TritonConfig:
    envelope = directory.envelope
    is_plan = envelope.engine_kind == "tensorrt"
    comments = [model.batching.reason, *model.notes]
    if model.server_options:
        comments.append(
            f"tritonserver needs {shlex.join(model.server_options)} (files where they are on the server)."
        )
    return TritonConfig(
        name=model.path.parent.name,
        backend="tensorrt" if is_plan else "onnxruntime",
        file=model.file.name,
        max_batch_size=model.batching.max_rows,
        inputs=model.inputs,
        outputs=model.outputs,
        on_gpu=is_plan,
        profiles=range(max((len(each.profiles) for each in model.inputs), default=0)) if is_plan else (),
        parameters={
            "trtllm_ext.architecture": str(config.pretrained_config.get("architecture")),
            "trtllm_ext.build_id": envelope.build_id,
            "trtllm_ext.contract": json.dumps(config.pretrained_config.get("contract"), sort_keys=True),
            "trtllm_ext.contract_sha256": envelope.contract_sha256,
            "trtllm_ext.engine": f"{envelope.engine_kind} {envelope.engine_version}",
            "trtllm_ext.version": config.version,
        },
        comments=comments,
    )


def _check_unedited(path: Path, existing_config: ExistingConfig | None) -> None:
    """Raise BuildError for a config.pbtxt that is not as an export wrote it, where nothing says what becomes of it."""
    existing = Existing.read(path)
    if existing is not None and not existing.is_ours and existing_config is None:
        raise BuildError(
            f"{path} was edited, or written by something else. {_WAYS}; or set another --model_name."
        )


def _is_to_be_written(model: TritonModel, text: str, existing_config: ExistingConfig | None) -> bool:
    """Whether `text` takes the place of what config.pbtxt there is. Raises BuildError where that must be asked."""
    path = model.config_path
    existing = Existing.read(path)
    if existing is None:
        return model.version == 1 or existing_config != "keep"
    if existing_config is None and not existing.shares(text):
        raise BuildError(
            f"{path} tells of other inputs, outputs or limits than this engine has, and Triton reads it for all "
            f"versions of the model. Set another --model_name; or, where nobody goes back to an earlier "
            f"version: {_WAYS}."
        )
    return existing_config != "keep"
