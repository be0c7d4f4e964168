"""The layers of a network that lie between tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from trtllm_ext import backend
from trtllm_ext.oracle.values import member_name


def between(network: Any, last: str, earlier: list[str]) -> Iterator[Any]:
    """The layers that a tensor depends on and none of the earlier ones does, in the order of the network."""
    producer = {
        str(layer.get_output(index).name): layer
        for layer in map(network.get_layer, range(network.num_layers))
        for index in range(layer.num_outputs)
    }
    known = _ancestors(earlier, producer)
    wanted = _ancestors([last], producer) - known
    seen = set()
    for layer in map(network.get_layer, range(network.num_layers)):
        if str(layer.name) in wanted and str(layer.name) not in seen:
            seen.add(str(layer.name))
            yield layer


def in_order(layers: list[Any]) -> list[Any]:
    """Each after those that it depends on."""
    by_tensor = {
        str(layer.get_output(index).name): layer for layer in layers for index in range(layer.num_outputs)
    }
    done: dict[str, Any] = {}

    def visit(start: Any) -> None:
        stack = [start]
        while stack:
            layer = stack[-1]
            sources = (layer.get_input(index) for index in range(layer.num_inputs))
            waiting = [by_tensor[str(each.name)] for each in sources if each and str(each.name) in by_tensor]
            waiting = [each for each in waiting if str(each.name) not in done]
            if waiting:
                stack += waiting
            else:
                done[str(stack.pop().name)] = layer

    for layer in layers:
        visit(layer)
    return list(done.values())


def kind_of(layer: Any) -> str:
    """The member's name of a layer's `trt.LayerType`."""
    # Activation and pooling layers have a `type` of their own in its place.
    trt = backend.tensorrt()
    return member_name(trt.ILayer.type.__get__(layer, type(layer)))


def below_root(layer: str) -> str:
    """A layer's name without the model's class, with which every one begins."""
    return layer.partition("/")[2] or layer


def _ancestors(tensors: list[str], producer: Mapping[str, Any]) -> set[str]:
    found: set[str] = set()
    pending = list(tensors)
    while pending:
        layer = producer.get(pending.pop())
        if layer is None or str(layer.name) in found:
            continue
        found.add(str(layer.name))
        inputs = [layer.get_input(index) for index in range(layer.num_inputs)]
        pending += [str(each.name) for each in inputs if each is not None]
    return found
