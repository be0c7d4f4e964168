"""convert(): read a source folder, check all of it, and write the checkpoint tensor by tensor."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy.typing as npt

from trtllm_ext.checkpoint.convert.plan import Plan
from trtllm_ext.checkpoint.convert.planners import MODEL_TYPES, PLANNERS
from trtllm_ext.checkpoint.convert.report import ConversionReport, ConvertedWeight
from trtllm_ext.checkpoint.convert.source_files import open_weights
from trtllm_ext.checkpoint.convert.stack import StackOptions
from trtllm_ext.checkpoint.convert.stream import ReleaseLater, stream
from trtllm_ext.checkpoint.directory import COMPANIONS, WeightSource, kind_of, write_checkpoint
from trtllm_ext.checkpoint.dtypes import WEIGHT_DTYPES, all_finite, convert_values, weight_dtype
from trtllm_ext.checkpoint.sharding import check_tp_size, with_ranks
from trtllm_ext.checkpoint.weights import expected_weights
from trtllm_ext.errors import CheckpointError, ConfigError
from trtllm_ext.runtime.json_files import read_json_object
from trtllm_ext.suggest import did_you_mean


def convert(
    model_dir: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    *,
    dtype: str = "auto",
    layers: str | None = None,
    stack: str | None = None,
    attention_input: bool = False,
    stream_dtype: str = "model",
    allow_nan: bool = False,
    tp_size: int = 1,
) -> ConversionReport:
    """Convert a Hugging Face model folder (config.json with weights) to a checkpoint directory.

    A model of the BERT family becomes an Encoder, as a whole, and its tokenizer.json is copied along. Of the others
    each layer's feed-forward sublayer with its norms is taken, which makes a SublayerStack.

    layers: those of a stack, as a Python slice: '3:7' for 3 to 6; None for all.
    stack: of a model that has two, 'encoder' or 'decoder', 'text' or 'vision'; None for the first.
    attention_input: let the stack take each layer's attention contribution as an input, as SublayerStack describes.
    stream_dtype: 'float32' keeps the stack's residual stream in float32 whatever dtype is; 'model' has it in dtype.
    dtype: 'float32', 'float16', 'bfloat16', or 'auto' for the type of the source's weights.
    allow_nan: accept NaN and infinity in weights.
    tp_size: how many tensor-parallel ranks the weights are split over, as `expected_weights` tells, into a file each.
    Cost: one pass over the weights, 4 MiB at a time. Every weight of the source is used, or dropped for a
    reason in the report, or the source is refused.
    Raises CheckpointError for a source that cannot be converted exactly, and when output_dir cannot be written;
    nothing is left behind then. Raises ConfigError for an unknown dtype and a tp_size below 1.
    """
    check_tp_size(tp_size)
    if dtype != "auto":
        weight_dtype(dtype)
    source_dir = Path(model_dir)
    source_config = read_model_config(source_dir)
    architecture = _architecture(source_dir / "config.json", source_config)
    options = StackOptions(
        layers=layers, stack=stack, attention_input=attention_input, stream_dtype=stream_dtype
    )
    plan = plan_folder(source_dir, source_config, options, "float32" if dtype == "auto" else dtype)
    try:
        if dtype == "auto":
            plan = replace(plan, config=replace(plan.config, dtype=_common_dtype(plan, source_dir)))
        config = with_ranks(plan.config, tp_size)
    except ConfigError as error:
        raise CheckpointError(f"{source_dir}: {error}") from None
    companions = [source_dir / name for name in COMPANIONS if (source_dir / name).is_file()]
    num_bytes = write_checkpoint(
        output_dir, config, _values_of(plan, source_dir, allow_nan), companions=companions
    )
    converted = tuple(
        ConvertedWeight(name, shape, tuple(view.source for view in plan.parts[name]))
        for name, shape in expected_weights(plan.config).items()
    )
    dropped = tuple(plan.source.dropped)
    return ConversionReport(source_dir, Path(output_dir), architecture, config, converted, dropped, num_bytes)


def read_model_config(model_dir: Path) -> dict[str, Any]:
    """A model folder's config.json. Raises CheckpointError for what is no such folder, telling what it is."""
    _check_folder(model_dir)
    config = read_json_object(model_dir / "config.json", CheckpointError)
    _check_kind(model_dir, config)
    return config


def plan_folder(
    model_dir: Path, config: Mapping[str, Any], options: StackOptions, dtype: str = "float32"
) -> Plan:
    """What a conversion of a model folder would do; no weight's values are read.

    config: its config.json. Raises CheckpointError for a source that cannot be converted exactly.
    """
    architecture = _architecture(model_dir / "config.json", config)
    weights = open_weights(model_dir)
    try:
        return PLANNERS[architecture](model_dir, config, weights, dtype, options)
    except ConfigError as error:
        raise CheckpointError(f"{model_dir}: {error}") from None


def _values_of(plan: Plan, source_dir: Path, allow_nan: bool) -> WeightSource:
    """Gives each whole weight chunk by chunk, checked and in the config's type."""
    dtype = weight_dtype(plan.config.dtype)
    later = ReleaseLater()

    def values_of(name: str, shape: tuple[int, ...]) -> Iterator[npt.NDArray]:
        for view in plan.parts[name]:
            for chunk in stream(view.values(), partial(later, view.release)):
                if not allow_nan and not all_finite(chunk):
                    raise CheckpointError(
                        f"{source_dir}: {view.source} holds NaN or infinity. Nothing was written; allow_nan "
                        "(--allow_nan) converts it all the same."
                    )
                yield convert_values(chunk, dtype, view.source)

    return values_of


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
            f"to the weights, of a model of one of these types: {', '.join(MODEL_TYPES)}."
        )
    if not isinstance(architectures, list) or len(architectures) != 1:
        raise CheckpointError(f"{path}: architectures={architectures!r}, expected a list of one name.")
    name = architectures[0]
    if not isinstance(name, str) or name not in PLANNERS:
        hint = did_you_mean(name, PLANNERS)
        raise CheckpointError(
            f"{path}: the architecture {name!r} is not supported. {hint + ' ' if hint else ''}Supported are models of "
            f"the types {', '.join(MODEL_TYPES)}."
        )
    return name


def _common_dtype(plan: Plan, model_dir: Path) -> str:
    """The type that all source weights in use have; what is dropped has no say."""
    views = (view for parts in plan.parts.values() for view in parts)
    found = sorted({view.dtype.name for view in views})
    if len(found) != 1 or found[0] not in WEIGHT_DTYPES:
        raise CheckpointError(
            f"{model_dir}: its weights have the type(s) {', '.join(found) or 'none'}, so dtype 'auto' is not clear; "
            f"choose one of {', '.join(WEIGHT_DTYPES)}."
        )
    return found[0]
