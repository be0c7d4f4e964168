"""A checkpoint directory: config.json and rank{N}.safetensors, written whole or not at all, checked when read."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt

from trtllm_ext.checkpoint.config import ModelConfig
from trtllm_ext.checkpoint.dtypes import all_finite, weight_dtype
from trtllm_ext.checkpoint.rank_files import CHECKPOINT_ID, RankFiles, open_rank_file
from trtllm_ext.checkpoint.safetensors_file import SafetensorsFile, aligned
from trtllm_ext.checkpoint.safetensors_writer import CHECKSUMS, checksum_seed, split_into_chunks
from trtllm_ext.checkpoint.sharding import ways_to_ranks, whole_config
from trtllm_ext.checkpoint.weights import expected_weights
from trtllm_ext.errors import CheckpointError, ConfigError
from trtllm_ext.runtime.atomic import Kind, replaced_directory, write_errors
from trtllm_ext.runtime.json_files import read_json_object
from trtllm_ext.suggest import did_you_mean

CONFIG_FILE = "config.json"
# How a rotated network's inputs and outputs relate to the original's.
ROTATION_FILE = "rotation.safetensors"
# Files beside the weights that those who run the engine need as well.
COMPANIONS = ("tokenizer.json", ROTATION_FILE)
# What write_checkpoint may replace. The contract tells our checkpoints from other model folders.
# Weights that are checked by the thread at hand.
_SMALL_BYTES = 1 << 18

CHECKPOINT_DIRECTORY = Kind(
    what="checkpoint",
    files=re.compile(r"rank\d+\.safetensors|" + "|".join(map(re.escape, (CONFIG_FILE, *COMPANIONS)))),
    is_config=lambda config: isinstance(config.get("contract"), dict),
    error=CheckpointError,
)


@dataclass(frozen=True)
class Checkpoint:
    """One rank's share of a checkpoint: its config, and its weights as read-only views of the mapped file."""

    config: ModelConfig
    weights: Mapping[str, npt.NDArray]


def kind_of(config: Mapping[str, object]) -> Literal["checkpoint", "engine", "model"] | None:
    """Whose config.json this is: a checkpoint's, an engine directory's, a Hugging Face model's; None if unclear."""
    if isinstance(config.get("contract"), dict):
        return "checkpoint"
    if "pretrained_config" in config and "build_config" in config:
        return "engine"
    # TensorRT-LLM's checkpoints have "architecture".
    if "architecture" not in config and ("architectures" in config or "model_type" in config):
        return "model"
    return None


def load_config(path: str | os.PathLike[str], *, rank: int = 0) -> ModelConfig:
    """Read and check a checkpoint's config.json.

    Raises CheckpointError naming the file and what is wrong in it.
    """
    return _config_of(path, _read_config(path), rank)


def _config_of(path: str | os.PathLike[str], data: dict[str, Any], rank: int) -> ModelConfig:
    try:
        if isinstance(rank, int) and rank > 0 and ModelConfig.from_dict(data).mapping.world_size == 1:
            raise ConfigError(
                f"rank={rank} is outside 0..0: this is a checkpoint of one rank. For {rank + 1} ranks, "
                f"{ways_to_ranks(rank + 1)}."
            )
        return ModelConfig.from_dict(data, rank=rank)
    except ConfigError as error:
        raise CheckpointError(f"{Path(path) / CONFIG_FILE}: {error}") from None


def _read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    file = Path(path) / CONFIG_FILE
    if not Path(path).is_dir():
        reason = "is a file" if Path(path).exists() else "does not exist"
        raise CheckpointError(f"{path} is not a checkpoint directory: it {reason}.")
    data = read_json_object(file, CheckpointError)
    match kind_of(data):
        case "model":
            raise CheckpointError(
                f"{path} is a Hugging Face model folder, not a checkpoint directory. Convert it first: trtllm-ext "
                f"convert --model_dir {path} --output_dir CHECKPOINT"
            )
        case "engine":
            raise CheckpointError(
                f"{path} is an engine directory, built already. Run it: trtllm-ext run --engine_dir {path}; or give "
                f"the checkpoint directory that it was built from."
            )
    return data


def open_checkpoint(path: str | os.PathLike[str], *, rank: int = 0) -> tuple[ModelConfig, SafetensorsFile]:
    """A checkpoint's config and weight file for one rank, of which everything but the values is checked.

    Cost: the headers are read. Raises CheckpointError as `load_checkpoint` does, but for damaged values.
    """
    data = _read_config(path)
    config = _config_of(path, data, rank)
    file = open_rank_file(path, config, data.get(CHECKPOINT_ID))
    _check_names_and_shapes(file, config)
    return config, file


def checksums(file: SafetensorsFile) -> list[str] | None:
    """Of each weight, in the file's order; None where the file has none. Raises CheckpointError for another number."""
    sums = file.metadata.get(CHECKSUMS)
    expected = None if sums is None else sums.split(" ")
    if expected is not None and len(expected) != len(file):
        raise CheckpointError(f"{file.path} is damaged: {len(expected)} checksums for {len(file)} tensors.")
    return expected


def load_checkpoint(path: str | os.PathLike[str], *, rank: int = 0, allow_nan: bool = False) -> Checkpoint:
    """Open a checkpoint directory for one rank and check everything in it.

    Every weight that the config calls for must be there with its shape and type, and nothing else; data must
    match its checksum where the file has any; NaN and infinity are refused unless allow_nan. A file of another rank,
    world size or conversion than config.json's is refused; other ranks' files need not be there.
    Cost: one pass over the weights by two threads; no page of a weight stays resident after it.
    Raises CheckpointError listing what does not fit.
    """
    config, file = open_checkpoint(path, rank=rank)
    expected = checksums(file)

    def check(item: tuple[int, str]) -> str | None:
        index, name = item
        problem = problem_of(name, file[name], None if expected is None else expected[index], allow_nan)
        file.release_pages(name)
        return problem

    if (
        sum(values.nbytes for values in file.values()) <= _SMALL_BYTES
    ):  # before a thread has started, it is done
        problems = [problem for problem in map(check, enumerate(file)) if problem]
    else:
        with ThreadPoolExecutor(max_workers=2) as pool:
            problems = [problem for problem in pool.map(check, enumerate(file)) if problem]
    if problems:
        raise CheckpointError(f"{file.path}: " + "; ".join(problems[:10]) + _more(problems))
    return Checkpoint(config, {name: aligned(file[name]) for name in expected_weights(config)})


def _check_names_and_shapes(file: SafetensorsFile, config: ModelConfig) -> None:
    expected = expected_weights(config)
    problems = [f"{name} is missing" for name in expected if name not in file]
    dtype = weight_dtype(config.dtype)
    for name, values in file.items():
        if name not in expected:
            problems.append(f"{name} is not a weight of this model. {did_you_mean(name, expected)}")
        elif values.shape != expected[name]:
            problems.append(f"{name} has shape {values.shape}, the config calls for {expected[name]}")
        elif values.dtype != dtype:
            problems.append(f"{name} has type {values.dtype.name}, the config says {config.dtype}")
    if problems:
        raise CheckpointError(
            f"{file.path} does not hold the weights of its {CONFIG_FILE}: "
            + "; ".join(problems[:10])
            + _more(problems)
        )


def _more(problems: list[str]) -> str:
    return f"; and {len(problems) - 10} more." if len(problems) > 10 else "."


def problem_of(
    name: str, values: npt.NDArray, expected: str | None, allow_nan: bool | None = None
) -> str | None:
    """What is wrong with a weight's values, as the end of a message; None if nothing is.

    expected: its checksum, None where the file has none. allow_nan: None where nobody can ask for it.
    """
    checksum = checksum_seed(name, values.dtype, values.shape)
    finite = True
    for chunk in split_into_chunks(values):
        if expected is not None:
            checksum = zlib.crc32(chunk.view("u1").data, checksum)
        finite = finite and (allow_nan or all_finite(chunk))
    if expected is not None and f"{checksum:08x}" != expected:
        return f"{name} is damaged: its checksum is {checksum:08x}, written was {expected}"
    if not finite:
        way_out = "" if allow_nan is None else "; allow_nan (--allow_nan) accepts it"
        return f"{name} holds NaN or infinity{way_out}"
    return None


WeightSource = Callable[[str, tuple[int, ...]], Iterable[npt.NDArray]]


def write_checkpoint(
    output_dir: str | os.PathLike[str],
    config: ModelConfig,
    source: WeightSource,
    *,
    companions: Iterable[Path] = (),
) -> int:
    """Write a checkpoint directory, tensor by tensor, whole or not at all; returns the bytes of its weights.

    source: called as source(name, shape) for every weight in turn, once, whatever the number of ranks; gives the whole
    weight, which has that shape, in pieces of the config's type in row-major order. They are dealt out to the files of
    all ranks of the config's mapping.
    companions: files to copy along, of names in COMPANIONS.
    An output_dir that holds an older checkpoint, or nothing, is replaced; one that holds anything else is refused.
    Raises CheckpointError when output_dir cannot be written, the disk is full, or another process writes there, and
    ConfigError for a model that does not split over its ranks.
    """
    shapes = expected_weights(whole_config(config))
    with (
        replaced_directory(output_dir, CHECKPOINT_DIRECTORY) as stage,
        write_errors(output_dir, CheckpointError),
    ):
        with RankFiles(stage, config) as files:
            for name, shape in shapes.items():
                files.write(name, _read(source, name, shape))
            num_bytes, checkpoint_id = files.finish()
        copy_companions(companions, stage)
        text = config.to_json(checkpoint_id=checkpoint_id)
        (stage / CONFIG_FILE).write_text(text, encoding="utf-8")
    return num_bytes


def _read(source: WeightSource, name: str, shape: tuple[int, ...]) -> Iterator[npt.NDArray]:
    try:
        yield from source(name, shape)
    except OSError as problem:
        raise CheckpointError(f"the values of {name} cannot be read: {problem}.") from problem


def copy_companions(companions: Iterable[Path], directory: Path) -> None:
    """Copy files into `directory`; CheckpointError for one that cannot be read, OSError when writing fails."""
    for companion in companions:
        try:
            data = companion.read_bytes()
        except OSError as problem:
            raise CheckpointError(f"{companion} cannot be read: {problem.strerror or problem}.") from problem
        (directory / companion.name).write_bytes(data)
