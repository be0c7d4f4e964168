"""An order of execution."""

from collections.abc import Callable, Iterable
from typing import Any

from trtllm_ext.lowering.errors import LoweringError
from trtllm_ext.lowering.layer_view import LayerView


def in_order(
    tensors: Iterable[Any], producer_of: Callable[[Any, LayerView | None], LayerView | None]
) -> list[LayerView]:
    """The layers that `tensors` need, each after those that it reads from (depth first, not recursive).

    producer_of(tensor, reader): the layer that makes a tensor, None if it is there beforehand.
    Raises LoweringError if there is a cycle.
    """
    ordered: list[LayerView] = []
    state: dict[int, str] = {}
    stack = [(producer_of(tensor, None), False) for tensor in reversed(list(tensors))]
    while stack:
        layer, finished = stack.pop()
        if layer is None:
            continue
        if finished:
            state[id(layer)] = "done"
            ordered.append(layer)
            continue
        if id(layer) in state:
            continue
        state[id(layer)] = "open"
        stack.append((layer, True))
        for tensor in reversed(layer.inputs):
            source = None if tensor is None else producer_of(tensor, layer)
            if source is None or state.get(id(source)) == "done":
                continue
            if state.get(id(source)) == "open":
                raise LoweringError(f"layers {layer.name!r} and {source.name!r} lie on a cycle")
            stack.append((source, False))
    return ordered
