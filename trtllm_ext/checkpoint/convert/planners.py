"""Which converter reads which architecture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from trtllm_ext.checkpoint.convert.architectures import STACK_ARCHITECTURES, specs_by_class
from trtllm_ext.checkpoint.convert.encoders import (
    ENCODER_ARCHITECTURES,
    EncoderArchitecture,
    plan_encoder,
)
from trtllm_ext.checkpoint.convert.plan import Plan
from trtllm_ext.checkpoint.convert.source_files import WeightFile
from trtllm_ext.checkpoint.convert.stack import StackOptions, plan_stack
from trtllm_ext.errors import CheckpointError

Planner = Callable[[Path, Mapping[str, Any], WeightFile, str, StackOptions], Plan]


def _plan_encoder(
    architecture: EncoderArchitecture,
    model_dir: Path,
    data: Mapping[str, Any],
    weights: WeightFile,
    dtype: str,
    options: StackOptions,
) -> Plan:
    for name, value in options.given().items():
        raise CheckpointError(
            f"{model_dir}: {name}={value!r} is an option for stacks of feed-forward sublayers; a "
            f"{data['architectures'][0]} is converted as a whole encoder. Leave it out."
        )
    return plan_encoder(architecture, model_dir, data, weights, dtype)


# Class name in `architectures` -> what plans the conversion of such a model.
PLANNERS: dict[str, Planner] = {
    **{
        name: partial(_plan_encoder, architecture)
        for architecture in ENCODER_ARCHITECTURES
        for name in architecture.class_names()
    },
    **{name: partial(plan_stack, specs) for name, specs in specs_by_class().items()},
}

MODEL_TYPES: tuple[str, ...] = tuple(
    sorted(
        {spec.model_type for spec in ENCODER_ARCHITECTURES}
        | {spec.model_type for spec in STACK_ARCHITECTURES}
    )
)
