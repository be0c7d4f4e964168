"""The weights that an engine holds, under the names of its checkpoint: of the embedded engine, NVIDIA's tells none.

A plan names its weights after layers, and not every one of them. So the engine's network is built once more with
weights of known random numbers; wherever these turn up in that plan, the engine's plan has the weight itself. Weights
of the same numbers (biases of zeros) are stored once, so what counts is where one is read, and not its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from trtllm_ext import backend
from trtllm_ext.builder.building import build
from trtllm_ext.builder.rebuilding import for_this_process
from trtllm_ext.checkpoint import Checkpoint, ModelConfig, expected_weights
from trtllm_ext.checkpoint.dtypes import weight_dtype
from trtllm_ext.errors import ConfigError, TrtllmExtError
from trtllm_ext.verify.plan_constants import Constants
from trtllm_ext.verify.references import model_of
from trtllm_ext.verify.subject import Subject

Array = np.ndarray[Any, Any]

_SEED = 5
# So few random numbers of a narrow type may turn up twice.
_FEW = 4
_WAY_OUT = "Give the checkpoint that it was built from: --checkpoint_dir DIR."


def own_checkpoint(subject: Subject) -> Checkpoint:
    """The engine's config with the weights that it holds.

    Raises ConfigError where the engine does not give them back: NVIDIA's, one that was stripped of them, and one built
    by another version of this library.
    """
    if backend.choice().engine != "embedded":
        raise ConfigError(
            f"{subject.name} is NVIDIA's engine, which does not give its weights back, so there is nothing to compute "
            f"references from. {_WAY_OUT}"
        )
    config = ModelConfig.from_dict(dict(subject.config.pretrained_config))
    held = Constants(subject.buffer())
    stand_in = _stand_in(config, {_digest(value) for value in held.values.values() if value.size <= _FEW})
    settings = subject.config.build_config
    plan = Constants(build(model_of(stand_in, settings), for_this_process(settings)).engine)
    stored = plan.in_terms_of(held)
    if stored is None:
        raise ConfigError(
            f"{subject.name} holds its weights as another version of this library, or without them; they cannot be "
            f"told apart. {_WAY_OUT}"
        )
    places = {_digest(value): place for place, value in plan.values.items()}
    weights = {}
    for name, values in stand_in.weights.items():
        found = _found(values, places, stored)
        if found is None:
            raise ConfigError(f"{subject.name} does not hold {name} as it is in a checkpoint. {_WAY_OUT}")
        weights[name] = found.astype(values.dtype)
    return Checkpoint(config, weights)


def _found(
    values: Array, places: Mapping[bytes, tuple[int, str]], stored: Mapping[tuple[int, str], Array]
) -> Array | None:
    """The stored weight where the stand-in's values turn up: as they are, transposed, or part after part."""
    place = places.get(_digest(values))
    if place is not None:
        return stored[place].reshape(values.shape)
    if values.ndim < 2:
        return None
    turned = values.swapaxes(-1, -2)
    place = places.get(_digest(turned))
    if place is not None:
        return stored[place].reshape(turned.shape).swapaxes(-1, -2)
    parts = [part for each in values if (part := _found(each, places, stored)) is not None]
    return np.stack(parts) if len(parts) == len(values) else None


def differing(subject: Subject, checkpoint: Checkpoint) -> tuple[str, ...] | None:
    """Names of weights of which the engine holds other values than the checkpoint; None where it does not tell."""
    try:
        own = own_checkpoint(subject)
    except TrtllmExtError:
        return None
    return tuple(
        name
        for name, value in own.weights.items()
        if not np.array_equal(_bytes(value), _bytes(checkpoint.weights[name]))
    )


def _stand_in(config: ModelConfig, taken: set[bytes]) -> Checkpoint:
    """Weights of random numbers, no two alike. taken: what the engine holds of few numbers, its constants among it."""
    generator, dtype = np.random.default_rng(_SEED), weight_dtype(config.dtype)
    weights = {}
    for name, shape in expected_weights(config).items():
        values = generator.standard_normal(shape, dtype=np.float32).astype(dtype)
        while values.size <= _FEW and _digest(values) in taken:
            values = generator.standard_normal(shape, dtype=np.float32).astype(dtype)
        if values.size <= _FEW:
            taken.add(_digest(values))
        weights[name] = values
    return Checkpoint(config, weights)


def _digest(value: Array) -> bytes:
    """What two arrays have in common that hold the same numbers in the same order, whatever their types."""
    return np.ascontiguousarray(value).reshape(-1).astype(np.float32).tobytes()


def _bytes(value: Array) -> Array:
    return np.ascontiguousarray(value).reshape(-1).view(np.uint8)
