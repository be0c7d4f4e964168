"""What `oracle` and `lowering` have to be told of a network, since TensorRT's API does not give it back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from trtllm_ext.backend import tensorrt
from trtllm_ext.errors import GraphError
from trtllm_ext.graph.network import Network, net_guard
from trtllm_ext.graph.plugin_record import PluginRecord
from trtllm_ext.graph.tensor import Tensor

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Known:
    """All by the name of a layer.

    weights: the arrays behind constants. plugins: what plugin layers compute, on arrays. expansions: the same as
    networks, whose inputs and outputs are those of the layer in their order; they hold the memory of their weights.
    """

    weights: Mapping[str, Array]
    plugins: Mapping[str, Callable[..., Any]]
    expansions: Mapping[str, Network]


def known_of(network: Any) -> Known:
    """What a network of ours, or of TensorRT-LLM's, has kept of its constants and plugin layers.

    Raises GraphError if an expansion does not fit the layer that it was recorded for.
    """
    if not isinstance(network, Network):
        # TensorRT-LLM keeps the arrays of constants with the INetworkDefinition, and of plugins only their fields.
        return Known(dict(getattr(network.trt_network, "np_weights", None) or {}), {}, {})
    plugins: dict[str, Callable[..., Any]] = {}
    expansions: dict[str, Network] = {}
    for name, record in network.plugins.items():
        if record.expansion is not None:
            expansions[name] = expanded(network, name, record)
        if record.function is not None:
            plugins[name] = record.function
        elif name in expansions:
            plugins[name] = _evaluated(expansions[name])
    return Known(network.host_weights, plugins, expansions)


def expanded(network: Network, name: str, record: PluginRecord) -> Network:
    """A record's expansion as a network, on inputs of the types and shapes that the layer `name` reads."""
    layer = network.get_layer_by_name(name)
    inner = Network(_new_network(network.trt_network), network._logger)
    if record.expansion is None:
        raise GraphError(f"{name}: the record of the plugin {record.name!r} has no expansion.")
    with net_guard(inner):
        results = record.expansion(*(_input(network, layer, index) for index in range(layer.num_inputs)))
        given = results if isinstance(results, list | tuple) else (results,)
        made = [(tensor.dtype, tensor.rank()) for tensor in given]
        outputs = [layer.get_output(index) for index in range(layer.num_outputs)]
        wanted = [(network.type_of(tensor), len(tensor.shape)) for tensor in outputs]
        if made != wanted:
            described = [f"{d} of rank {r}" for d, r in wanted]
            raise GraphError(
                f"{name}: the expansion of the plugin {record.name!r} gives {[f'{d} of rank {r}' for d, r in made]}, "
                f"but the layer's outputs are {described}."
            )
        for index, tensor in enumerate(given):
            tensor.mark_output(f"output_{index}")
    return inner


def _input(network: Network, layer: Any, index: int) -> Tensor:
    source = layer.get_input(index)
    if source is None:
        raise GraphError(f"{layer.name}: input {index} is not set, so its expansion cannot be written down.")
    shape = tuple(int(length) for length in source.shape)
    return Tensor(name=f"input_{index}", dtype=network.type_of(source), shape=shape)


def _new_network(like: Any) -> Any:
    """An empty network of the same kind."""
    flags = getattr(like, "flags", None)
    if flags is None:  # before TensorRT 10 networks do not tell; there is one kind that has dynamic shapes
        flags = 1 << int(tensorrt().NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
    return like.builder.create_network(flags)


def _evaluated(inner: Network) -> Callable[..., tuple[Array, ...]]:
    def function(*inputs: Array) -> tuple[Array, ...]:
        from trtllm_ext.oracle import evaluate

        told = known_of(inner)
        feeds = {f"input_{index}": value for index, value in enumerate(inputs)}
        values = evaluate(inner.trt_network, tensorrt(), feeds, plugins=told.plugins, weights=told.weights)
        return tuple(values[f"output_{index}"] for index in range(len(values)))

    return function
