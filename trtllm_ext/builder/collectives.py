"""What the ranks of a network tell each other in one run, counted before anything is built."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from trtllm_ext.errors import BuildError
from trtllm_ext.runtime.dtypes import numpy_dtype, readable

_LAYER_TYPE = "DIST_COLLECTIVE"


@dataclass(frozen=True)
class CollectiveUse:
    """Collectives of one kind, type and group in a network.

    kind: "all_reduce", "all_gather" or "reduce_scatter". dtype: such as "float32". group: global ranks, in order.
    count: how many of them a run has. largest_bytes, total_bytes: of the largest one and of all in a run at the
    largest shapes of the first profile; a collective counts with the tensor that is whole: the one before a
    reduce-scatter, the one after an all-gather.
    """

    kind: str
    dtype: str
    group: tuple[int, ...]
    count: int
    largest_bytes: int
    total_bytes: int


def count_collectives(network: Any) -> tuple[CollectiveUse, ...]:
    """The collectives of a `graph.Network`, in the order of their first appearance.

    Gives the network's inputs the largest shapes of their first profile, for good: it can be looked at, not built.
    Raises BuildError for a collective whose size depends on data.
    """
    layers = list(_collective_layers(network.trt_network))
    if not layers:
        return ()
    _enlarge_inputs(network)
    sizes: dict[tuple[str, str, tuple[int, ...]], list[int]] = defaultdict(list)
    for layer in layers:
        kind, group = network.collectives[layer.name]
        whole = [_bytes_of(layer.name, tensor) for tensor in (layer.get_input(0), layer.get_output(0))]
        sizes[kind, readable(layer.get_input(0).dtype), group].append(max(whole))
    return tuple(
        CollectiveUse(*key, count=len(each), largest_bytes=max(each), total_bytes=sum(each))
        for key, each in sizes.items()
    )


def _collective_layers(trt_network: Any) -> Iterator[Any]:
    for index in range(trt_network.num_layers):
        layer = trt_network.get_layer(index)
        if layer.type.name == _LAYER_TYPE:
            yield layer


def _enlarge_inputs(network: Any) -> None:
    declared = {tensor.name: tensor.profiles for tensor in network.get_inputs()}
    trt_network = network.trt_network
    for index in range(trt_network.num_inputs):
        tensor = trt_network.get_input(index)
        if profiles := declared.get(tensor.name):
            tensor.shape = profiles[0].max


def _bytes_of(layer: str, tensor: Any) -> int:
    shape = tuple(tensor.shape)
    if min(shape, default=1) < 0:
        raise BuildError(
            f"the collective {layer!r} is over a tensor of shape {shape}, whose size depends on data and has no bound "
            f"that a plan could count."
        )
    return math.prod(shape) * numpy_dtype(tensor.dtype).itemsize
