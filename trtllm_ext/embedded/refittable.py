"""Weights of a network by name, and which of them a built engine lets exchange."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from trtllm_ext.embedded.enums import BuilderFlag, DataType, LayerType, Severity, WeightsRole
from trtllm_ext.embedded.graph import Graph
from trtllm_ext.embedded.layers.movement import as_weights
from trtllm_ext.embedded.node import Node
from trtllm_ext.embedded.types import Weights, text_of
from trtllm_ext.errors import BuildError

# Which attributes of a layer are weights, and what they are to it.
_ROLES = {
    LayerType.CONSTANT: {"weights": WeightsRole.CONSTANT},
    LayerType.CONVOLUTION: {"kernel": WeightsRole.KERNEL, "bias": WeightsRole.BIAS},
    LayerType.DECONVOLUTION: {"kernel": WeightsRole.KERNEL, "bias": WeightsRole.BIAS},
    LayerType.SCALE: {"shift": WeightsRole.SHIFT, "scale": WeightsRole.SCALE},
}
# Integers and booleans decide shapes and positions, which are settled when an engine is built.
_TYPES = frozenset({DataType.FLOAT, DataType.HALF, DataType.BF16, DataType.INT8, DataType.FP8})

# Two Weights are the same to the network if they are the same memory.
Key = tuple[DataType, int, int]


@dataclass(frozen=True)
class RefittableWeights:
    """Weights of one layer that the engine lets exchange. name: as set by `set_weights_name()`, else empty."""

    layer: Node
    role: WeightsRole
    name: str


# Any of them makes an engine whose weights can be exchanged, as far as it has such weights.
REFIT_FLAGS = (BuilderFlag.REFIT, BuilderFlag.REFIT_IDENTICAL, BuilderFlag.REFIT_INDIVIDUAL)


class WeightNames:
    """The part of INetworkDefinition that names weights."""

    _graph: Graph
    _weights_names: dict[str, Key]
    _marked_refittable: set[str]
    # The memory that layers use, by address: for the many calls that name weights one by one.
    _used: dict[int, set[Key]]

    def _name_no_weights(self) -> None:
        self._weights_names = {}
        self._marked_refittable = set()
        self._used = {}

    def set_weights_name(self, weights: Any, name: str | None) -> bool:
        """Name all uses of a memory of weights; None clears the name.

        False, with an error in the log, if no layer uses them, if a layer uses the memory with another type or count,
        or if the name is that of other weights.
        """
        key = _key(as_weights(weights))
        if self._used.get(key[1]) != {key}:
            self._used = {}
            for _, _, used in _uses(self._graph):
                self._used.setdefault(used._address, set()).add(_key(used))
        others = self._used.get(key[1], set()) - {key}
        if others or key not in self._used.get(key[1], set()):
            detail = "".join(
                f"; a layer uses this memory as {other[2]} of {other[0].name}" for other in others
            )
            return self._refuse_name(
                f"no layer uses just {key[2]} {key[0].name} weights at {key[1]:#x}{detail}"
            )
        if name is None:
            for old in [old for old, named in self._weights_names.items() if named == key]:
                del self._weights_names[old]
                self._marked_refittable.discard(old)
            return True
        text_of(name, "the name of weights")
        if self._weights_names.get(name, key) != key:
            return self._refuse_name(f"{name!r} is the name of other weights")
        self.set_weights_name(weights, None)
        self._weights_names[name] = key
        return True

    def mark_weights_refittable(self, name: str) -> bool:
        """Let the engine exchange the weights of this name if BuilderFlag.REFIT_INDIVIDUAL is set.

        False, with an error in the log, if there are none, or if they are integers, which decide shapes.
        """
        key = self._weights_names.get(name)
        if key is None or key[0] not in _TYPES:
            why = (
                "no weights have this name"
                if key is None
                else f"weights of {key[0].name} cannot be exchanged"
            )
            self._graph.log(Severity.ERROR, f"mark_weights_refittable({name!r}): {why}")
            return False
        self._marked_refittable.add(name)
        return True

    def unmark_weights_refittable(self, name: str) -> bool:
        """Undo `mark_weights_refittable()`; False if no weights have this name."""
        self._marked_refittable.discard(name)
        return name in self._weights_names

    def are_weights_marked_refittable(self, name: str) -> bool:
        """Whether `mark_weights_refittable()` was called for the weights of this name."""
        return name in self._marked_refittable

    def _refuse_name(self, why: str) -> bool:
        self._graph.log(Severity.ERROR, f"set_weights_name: {why}")
        return False

    def _refittable_weights(self, flags: int) -> list[RefittableWeights]:
        """What an engine built with these builder flags lets exchange. Raises BuildError for flags that clash."""
        individual, every = _wanted(flags)
        if not individual and not every:
            return []
        names = {key: name for name, key in self._weights_names.items()}
        found = []
        for node, role, weights in _uses(self._graph):
            name = names.get(_key(weights), "")
            if (
                weights.dtype not in _TYPES
                or not weights.size
                or (individual and name not in self._marked_refittable)
            ):
                continue
            if not any(self._graph.is_shape_tensor(tensor) for tensor in node.outputs):
                found.append(RefittableWeights(node, role, name))
        return found


def _wanted(flags: int) -> tuple[bool, bool]:
    """Whether the weights marked, and whether all weights, are to be exchangeable."""

    def is_set(flag: BuilderFlag) -> bool:
        return bool(flags >> int(flag) & 1)

    individual = is_set(BuilderFlag.REFIT_INDIVIDUAL)
    every = is_set(BuilderFlag.REFIT) or is_set(BuilderFlag.REFIT_IDENTICAL)
    if individual and every:
        raise BuildError(
            "REFIT_INDIVIDUAL cannot be combined with REFIT or REFIT_IDENTICAL; clear one of the flags."
        )
    return individual, every or (is_set(BuilderFlag.STRIP_PLAN) and not individual)


def _uses(graph: Graph) -> Iterator[tuple[Node, WeightsRole, Weights]]:
    for node in graph.nodes:
        for attribute, role in _ROLES.get(node.kind, {}).items():
            weights = node.attributes.get(attribute)
            if isinstance(weights, Weights):
                yield node, role, weights


def _key(weights: Weights) -> Key:
    return weights.dtype, weights._address, weights.size
