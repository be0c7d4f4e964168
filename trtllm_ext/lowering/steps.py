"""What lowering gives back: the steps of a plan, with their models and weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

# Whose weights: `id()` of a layer, and the name of a WeightsRole.
Source = tuple[int, str]


@dataclass(frozen=True, eq=False)
class Expansion:
    """A plugin layer written out: an `INetworkDefinition` whose inputs and outputs are the layer's, in their order.

    weights, expansions: of it, as `lower()` takes them.
    """

    network: Any
    weights: Mapping[str, Any] = field(default_factory=dict)
    expansions: "Mapping[str, Expansion]" = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Weight:
    """One large constant of a segment, outside its model.

    `data` is a 1-D uint8 view of the owner's memory (no copy), so it must be written or copied while the network's
    weights are alive. `source` says whose weights these are, if they must stay exchangeable: the id of a layer of the
    network, and the role that the weights have there.
    """

    name: str
    onnx_type: int
    shape: tuple[int, ...]
    data: np.ndarray[Any, np.dtype[np.uint8]]
    source: Source | None = None


@dataclass(frozen=True, eq=False)
class OnnxSegment:
    """A part of a network as one ONNX model.

    Each of `weights` is an initializer of `model` with external data: location `WEIGHTS_LOCATION`, and the key
    `offset` left to whoever writes the weights. `inputs` and `outputs` name the tensors in the order of the network.
    """

    model: onnx.ModelProto
    weights: tuple[Weight, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class PluginStep:
    """A plugin layer between segments: the values that it takes and makes, by name, in the order of the layer."""

    layer: Any
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class CollectiveStep:
    """A collective layer between segments: the names of the value that it takes and of the one that it makes."""

    layer: Any
    input: str
    output: str


Step = OnnxSegment | PluginStep | CollectiveStep

WEIGHTS_LOCATION = "weights"


@dataclass(frozen=True)
class Lowered:
    """A whole network: steps that run one after the other."""

    steps: tuple[Step, ...]
