"""The weights that an engine holds, under the names of its checkpoint: of the embedded engine, NVIDIA's tells none.

A plan names its weights after layers, and not every one of them. So the engine's network is built once more with
weights of known random numbers; wherever these turn up in that plan, the engine's plan has the weight itself. Weights
of the same numbers (biases of zeros) are stored once, so what counts is where one is read, and not its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from trtllm_ext import backend
from trtllm_ext.builder.building import build
from trtllm_ext.builder.rebuilding import for_this_process
from trtllm_ext.checkpoint import Checkpoint, ModelConfig, expected_weights
from trtllm_ext.checkpoint.dtypes import weight_dtype
from trtllm_ext.embedded.plan import read_plan
from trtllm_ext.errors import ConfigError, TrtllmExtError
from trtllm_ext.verify.references import model_of
from trtllm_ext.verify.subject import Subject

Array = np.ndarray[Any, Any]

_SEED = 5
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
    held = _Constants(subject.buffer())
    stand_in = _stand_in(config)
    settings = subject.config.build_config
    plan = _Constants(build(model_of(stand_in, settings), for_this_process(settings)).engine)
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


def _stand_in(config: ModelConfig) -> Checkpoint:
    generator, dtype = np.random.default_rng(_SEED), weight_dtype(config.dtype)
    weights = {
        name: generator.standard_normal(shape, dtype=np.float32).astype(dtype)
        for name, shape in expected_weights(config).items()
    }
    return Checkpoint(config, weights)


_Name = tuple[int, str]


class _Constants:
    """The floating constants of a plan, by segment and name, and which of them each node reads.

    reads: by segment, the node's first output, and which of its inputs it is.
    """

    def __init__(self, buffer: Any) -> None:
        plan = read_plan(memoryview(buffer))
        self.values: dict[_Name, Array] = {}
        self.reads: dict[tuple[int, str, int], _Name] = {}
        for index in range(len(plan.header.segments)):
            graph = _graph(plan, index)
            self.values |= dict(_each_constant(plan, index, graph))
            for node in graph.node:
                for position, name in enumerate(node.input):
                    if (index, name) in self.values:
                        self.reads[index, node.output[0], position] = index, name

    def in_terms_of(self, other: _Constants) -> dict[_Name, Array] | None:
        """Another plan's values under this one's names; None where it does not read constants of the same shapes."""
        if self.reads.keys() != other.reads.keys():
            return None
        names = {name: name for name in self.values} | {
            name: other.reads[place] for place, name in self.reads.items()
        }
        found = {name: other.values[there] for name, there in names.items() if there in other.values}
        if {name: value.shape for name, value in found.items()} != {
            name: value.shape for name, value in self.values.items()
        }:
            return None
        return found


def _graph(plan: Any, index: int) -> Any:
    import onnx

    return onnx.load_model_from_string(bytes(plan.segment(index))).graph


def _each_constant(plan: Any, index: int, graph: Any) -> Iterator[tuple[_Name, Array]]:
    """Those of one segment: its weights, and what stands in its graph."""
    import onnx
    from onnx import numpy_helper

    for weight in plan.header.segments[index].weights:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(weight.onnx_type)
        if weight.block is not None and np.dtype(dtype).kind not in "iub":
            yield (index, weight.name), plan.weight(weight.block).view(dtype).reshape(weight.shape)
    inside = [each for each in graph.initializer if each.data_location != onnx.TensorProto.EXTERNAL]
    inside += [_value(node) for node in graph.node if node.op_type == "Constant"]
    for tensor in inside:
        if tensor is None:
            continue
        if np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).kind not in "iub":
            yield (index, tensor.name), numpy_helper.to_array(tensor)


def _value(node: Any) -> Any:
    found = next((each.t for each in node.attribute if each.name == "value"), None)
    if found is not None:
        found.name = node.output[0]
    return found


def _digest(value: Array) -> bytes:
    """What two arrays have in common that hold the same numbers in the same order, whatever their types."""
    return np.ascontiguousarray(value).reshape(-1).astype(np.float32).tobytes()


def _bytes(value: Array) -> Array:
    return np.ascontiguousarray(value).reshape(-1).view(np.uint8)
