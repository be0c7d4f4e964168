"""What is verified: an engine with what is known of it, and a run of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trtllm_ext import backend
from trtllm_ext.builder.engine import Engine, EngineConfig
from trtllm_ext.builder.same_model import check_same_model
from trtllm_ext.builder.seeded_inputs import ID_BOUNDS, input_values, smaller_shape
from trtllm_ext.checkpoint import Checkpoint, load_config, load_whole
from trtllm_ext.errors import ConfigError, InputError
from trtllm_ext.runtime import EngineDir, Session
from trtllm_ext.runtime.dtypes import NUMPY_DTYPES, TORCH_DTYPES
from trtllm_ext.runtime.envelope import TensorSummary
from trtllm_ext.runtime.tensorrt_llm_dir import inputs_of
from trtllm_ext.suggest import nearest
from trtllm_ext.verify.tolerances import Tolerances, tolerances_of

Array = np.ndarray[Any, Any]

_SEED = 21
_DTYPES = {TORCH_DTYPES[name]: dtype for name, dtype in NUMPY_DTYPES.items()}


@dataclass(frozen=True)
class Subject:
    """name: for people. directory: where the engine lies, or None; engine: in memory, or None."""

    name: str
    config: EngineConfig
    inputs: tuple[TensorSummary, ...]
    directory: str | None
    engine: Engine | None

    @property
    def dtype(self) -> str:
        """The model's."""
        return str(self.config.pretrained_config["dtype"])

    @property
    def tolerances(self) -> Tolerances:
        return tolerances_of(
            self.dtype, backend.choice().engine, bool(getattr(self.config.build_config, "tf32", True))
        )

    def buffer(self) -> Any:
        """The engine's bytes."""
        if self.engine is not None:
            return self.engine.engine
        assert self.directory is not None
        return EngineDir.read(self.directory, 0).map_engine()

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Every output for the inputs. Raises InputError, EngineError."""
        if self.engine is not None:
            return run_buffer(self.engine.engine, inputs)
        assert self.directory is not None
        with Session.from_engine_dir(self.directory, 0) as session:
            return _run(session, inputs)

    def check(self, inputs: Mapping[str, Array]) -> None:
        """Raise InputError for inputs that are missing, unknown, or of another shape or type than the model takes."""
        names = [each.name for each in self.inputs]
        for name in inputs:
            if name not in names:
                raise InputError(f"{name!r} is not an input. {nearest(name, names)}")
        for each in self.inputs:
            value = inputs.get(each.name)
            if value is None:
                raise InputError(f"the input {each.name!r} is missing; the model takes {', '.join(names)}.")
            fits = value.ndim == len(each.shape) and all(
                want in (-1, have) for want, have in zip(each.shape, value.shape, strict=True)
            )
            if not fits or value.dtype != _DTYPES[each.dtype]:
                raise InputError(
                    f"the input {each.name!r} is {value.dtype} {value.shape}, but the model takes {each.dtype} "
                    f"{each.shape} (-1: any length)."
                )
        _check_sizes(self.inputs, inputs)
        check_ids(self.config.pretrained_config, inputs)

    def seeded_inputs(self) -> dict[str, Array]:
        """Inputs that nobody has given: a few tokens or sentences, the last of them with padding."""
        generator = np.random.default_rng(_SEED)
        sizes = self.config.pretrained_config
        needed = [each for each in self.inputs if each.name not in self.config.input_defaults]
        found = {each.name: input_values(each, smaller_shape(each), sizes, generator) for each in needed}
        mask = found.get("attention_mask")
        if mask is not None and mask.shape[0] > 1 and mask.shape[1] > 1:
            mask[-1, -(mask.shape[1] // 3 or 1) :] = 0
        return self.completed(found)

    def completed(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The inputs, and those of surgery that were left out, by which nothing is changed."""
        shapes = {name: value.shape for name, value in inputs.items()}
        dtypes = {each.name: _DTYPES[each.dtype] for each in self.inputs}
        left_out = {
            name: np.full(default.shape_beside(shapes), default.value, dtypes[name])
            for name, default in self.config.input_defaults.items()
            if name not in inputs
        }
        return {**inputs, **left_out}


def _check_sizes(tensors: tuple[TensorSummary, ...], inputs: Mapping[str, Array]) -> None:
    """Raise InputError for sizes that the model has no meaning for, whatever an engine's limits are."""
    known: dict[str, tuple[str, int]] = {}
    for each in tensors:
        shape = inputs[each.name].shape
        for index, size in enumerate(shape):
            name = each.dim_names[index] if each.dim_names else ""
            least = min((shapes[0][index] for shapes in each.profiles), default=1)
            # Sentences end where the position table does; batches and tokens have no end of their own.
            most = max((shapes[2][index] for shapes in each.profiles if name == "input_len"), default=size)
            if not least <= size <= most:
                allowed = f"{least} to {most}" if name == "input_len" else f"{least} and more"
                raise InputError(
                    f"input {each.name!r} has shape {shape}: dimension {index}{f' ({name})' if name else ''} is "
                    f"{size}, allowed are {allowed}. Give a value within these limits."
                )
            other, its_size = known.setdefault(name or f"{each.name} {index}", (each.name, size))
            if its_size != size:
                raise InputError(
                    f"{name} is {size} in the input {each.name!r} and {its_size} in {other!r}. Give both the same."
                )


def check_ids(sizes: Mapping[str, Any], inputs: Mapping[str, Array]) -> None:
    """Raise InputError for ids that are no rows of their tables. sizes: the model's config."""
    for name, size_name in ID_BOUNDS.items():
        value, size = inputs.get(name), sizes.get(size_name)
        if value is None or not size or value.dtype.kind not in "iu":
            continue
        wrong = (value < 0) | (value >= size)
        if wrong.any():
            first = tuple(int(each) for each in np.argwhere(wrong)[0])
            raise InputError(
                f"the input {name!r} has {value[first]} at {list(first)}, but {size_name} is {size}. Give ids of 0 to "
                f"{size - 1}."
            )


def check_finite(inputs: Mapping[str, Array]) -> None:
    """Raise InputError for NaN and infinity, with the place of the first."""
    for name, value in inputs.items():
        wrong = ~np.isfinite(value.astype(np.float64))
        if wrong.any():
            first = tuple(int(each) for each in np.argwhere(wrong)[0])
            what = "NaN" if np.isnan(value[first]) else "inf"
            raise InputError(
                f"the input {name!r} has {what} at {list(first)}, of which every number behind it would be made. Give "
                f"finite numbers."
            )


def subject_of(engine: str | os.PathLike[str] | Engine) -> Subject:
    """An engine directory of one rank, or an engine in memory. Raises EngineError, ConfigError for several ranks."""
    if isinstance(engine, Engine):
        config, inputs, name, directory = engine.config, engine.inputs, "the engine", None
        if engine.engine is None:
            raise ConfigError("this is the result of a dry run: there is no engine to verify.")
    else:
        name = directory = os.fspath(engine)
        read = EngineDir.read(Path(directory), 0)
        config, inputs = EngineConfig.from_dict(read.config), read.envelope.inputs
        if not read.has_envelope and config.world_size == 1:
            with Session.from_engine_dir(directory) as session:
                inputs = inputs_of(session)
    if config.world_size != 1:
        raise ConfigError(
            f"{name} is an engine of {config.world_size} ranks; `trtllm-ext verify --checkpoint_dir DIR --engine_dir "
            f"{name}` compares those with the whole model. Build the checkpoint for one rank to look inside."
        )
    return Subject(name, config, inputs, directory, engine if isinstance(engine, Engine) else None)


def checkpoint_for(
    subject: Subject, checkpoint: str | os.PathLike[str] | Checkpoint, allow_nan: bool
) -> Checkpoint:
    """The checkpoint that an engine is verified against. Raises ConfigError for another model's."""
    check_same_model(
        subject.config.pretrained_config,
        checkpoint.config if isinstance(checkpoint, Checkpoint) else load_config(checkpoint),
        engine=subject.name,
        checkpoint="the checkpoint" if isinstance(checkpoint, Checkpoint) else checkpoint,
        way_out="Give the checkpoint that it was built from.",
    )
    if isinstance(checkpoint, Checkpoint):
        return checkpoint
    return load_whole(checkpoint, allow_nan=allow_nan)


def run_buffer(buffer: Any, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Every output of a serialized engine for the inputs."""
    with Session.from_serialized_engine(buffer) as session:
        return _run(session, inputs)


def _run(session: Session, inputs: Mapping[str, Array]) -> dict[str, Array]:
    return {name: np.array(value) for name, value in session.run(inputs).items()}


def typed_inputs(subject: Subject, inputs: Mapping[str, Any]) -> dict[str, Array]:
    """Given inputs as arrays of the engine's types."""
    found = {}
    for name, given in inputs.items():
        value = np.asarray(given)
        wanted = next((_DTYPES[each.dtype] for each in subject.inputs if each.name == name), None)
        if wanted is not None and value.dtype.kind == "V" and value.dtype.itemsize == wanted.itemsize:
            value = value.view(wanted)  # numpy writes types that are not its own as raw bytes
        found[name] = value
    return subject.completed(found)
