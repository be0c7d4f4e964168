"""convert(): read a source folder, check all of it, and write the checkpoint tensor by tensor."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from trtllm_ext.checkpoint.convert.bert import ARCHITECTURES as BERT_ARCHITECTURES
from trtllm_ext.checkpoint.convert.bert import Plan, plan_bert
from trtllm_ext.checkpoint.convert.report import ConversionReport, ConvertedWeight
from trtllm_ext.checkpoint.convert.source import open_weights
from trtllm_ext.checkpoint.directory import COMPANIONS, kind_of, write_checkpoint
from trtllm_ext.checkpoint.dtypes import WEIGHT_DTYPES, all_finite, convert_values, weight_dtype
from trtllm_ext.checkpoint.safetensors_writer import split_into_chunks
from trtllm_ext.errors import CheckpointError, ConfigError
from trtllm_ext.runtime.json_files import read_json_object

Planner = Callable[[Path, Mapping[str, Any], Mapping[str, npt.NDArray], str], Plan]

PLANNERS: dict[str, Planner] = dict.fromkeys(BERT_ARCHITECTURES, plan_bert)


def convert(
    model_dir: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    *,
    dtype: str = "auto",
    allow_nan: bool = False,
) -> ConversionReport:
    """Convert a Hugging Face model folder (config.json with weights) to a checkpoint directory.

    A tokenizer.json is copied along.

    dtype: 'float32', 'float16', 'bfloat16', or 'auto' for the type of the source's weights.
    allow_nan: accept NaN and infinity in weights.
    Cost: one pass over the weights, 4 MiB at a time. Every weight of the source is used, or dropped for a
    reason in the report, or the source is refused.
    Raises CheckpointError for a source that cannot be converted exactly, and when output_dir cannot be written;
    nothing is left behind then. Raises ConfigError for an unknown dtype.
    """
    if dtype != "auto":
        weight_dtype(dtype)
    source_dir = Path(model_dir)
    _check_folder(source_dir)
    source_config = read_json_object(source_dir / "config.json", CheckpointError)
    _check_kind(source_dir, source_config)
    architecture = _architecture(source_dir / "config.json", source_config)
    weights = open_weights(source_dir)
    try:
        plan = PLANNERS[architecture](source_dir, source_config, weights, _dtype(dtype, weights, source_dir))
    except ConfigError as error:
        raise CheckpointError(f"{source_dir}: {error}") from None

    def source(name: str, shape: tuple[int, ...]) -> Iterator[npt.NDArray]:
        for part, values in plan.parts[name]:
            for chunk in split_into_chunks(values):
                if not allow_nan and not all_finite(chunk):
                    raise CheckpointError(
                        f"{source_dir}: {part} holds NaN or infinity. Nothing was written; allow_nan "
                        "(--allow_nan) converts it all the same."
                    )
                yield convert_values(chunk, weight_dtype(plan.config.dtype), part)

    companions = [source_dir / name for name in COMPANIONS if (source_dir / name).is_file()]
    num_bytes = write_checkpoint(output_dir, plan.config, source, companions=companions)
    converted = tuple(
        ConvertedWeight(name, _joined_shape(parts), tuple(part for part, _ in parts))
        for name, parts in plan.parts.items()
    )
    return ConversionReport(
        source_dir,
        Path(output_dir),
        architecture,
        plan.config,
        converted,
        tuple(plan.source.dropped),
        num_bytes,
    )


def _check_folder(model_dir: Path) -> None:
    if model_dir.is_dir():
        return
    if model_dir.exists():
        raise CheckpointError(
            f"{model_dir} is a file; expected the model's folder, with config.json and the weights."
        )
    hint = ""
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(model_dir)):
        hint = " Names of models on a hub are not looked up; download the model and give its local folder."
    raise CheckpointError(f"The model folder {model_dir} does not exist.{hint}")


def _check_kind(model_dir: Path, config: Mapping[str, Any]) -> None:
    match kind_of(config):
        case "checkpoint":
            raise CheckpointError(
                f"{model_dir} is a checkpoint directory, converted already. Build its engine: trtllm-ext build "
                f"--checkpoint_dir {model_dir}"
            )
        case "engine":
            raise CheckpointError(
                f"{model_dir} is an engine directory, built already. Run it: trtllm-ext run --engine_dir {model_dir}; "
                f"or give the folder of the source model."
            )


def _architecture(path: Path, data: Mapping[str, Any]) -> str:
    architectures = data.get("architectures")
    if architectures is None:
        raise CheckpointError(
            f"{path} has no architectures, so it does not say which model this is. Take the config.json that belongs "
            f"to the weights; supported: {', '.join(PLANNERS)}."
        )
    if not isinstance(architectures, list) or len(architectures) != 1:
        raise CheckpointError(f"{path}: architectures={architectures!r}, expected a list of one name.")
    name = architectures[0]
    if not isinstance(name, str) or name not in PLANNERS:
        raise CheckpointError(
            f"{path}: the architecture {name!r} is not supported; supported: {', '.join(PLANNERS)}."
        )
    return name


def _dtype(dtype: str, weights: Mapping[str, npt.NDArray], model_dir: Path) -> str:
    if dtype != "auto":
        return dtype
    found = sorted({values.dtype.name for values in weights.values() if values.dtype.kind not in "iub"})
    if len(found) != 1 or found[0] not in WEIGHT_DTYPES:
        raise CheckpointError(
            f"{model_dir}: its weights have the type(s) {', '.join(found) or 'none'}, so dtype 'auto' is not clear; "
            f"choose one of {', '.join(WEIGHT_DTYPES)}."
        )
    return found[0]


def _joined_shape(parts: tuple[tuple[str, npt.NDArray], ...]) -> tuple[int, ...]:
    return (sum(values.shape[0] for _, values in parts), *parts[0][1].shape[1:])
