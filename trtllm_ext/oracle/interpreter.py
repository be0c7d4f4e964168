"""Evaluating a whole network, in execution order, whatever the order of creation.

A layer may be given its inputs after it was made (`set_input`), so creation order means nothing: layers run when
all their inputs are there. Nothing here recurses, so depth is no limit, and a value is let go after its last use.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from trtllm_ext.oracle import plugin
from trtllm_ext.oracle.call import Call, kind_of
from trtllm_ext.oracle.control import Control
from trtllm_ext.oracle.errors import OracleError
from trtllm_ext.oracle.kinds import KINDS
from trtllm_ext.oracle.parts import Parts
from trtllm_ext.oracle.plugin import Meaning
from trtllm_ext.oracle.supplied import Supplied
from trtllm_ext.oracle.values import Array, converted, held_as, input_value, member_name
from trtllm_ext.parallel.communicator import Communicator


@dataclass(frozen=True)
class TraceStep:
    """One tensor as it is computed: the layer that makes it ('' for a network input), its name, its value.

    is_given: the value is the caller's (`given`) and was not computed.
    """

    layer: str
    kind: str
    tensor: str
    value: Array
    is_given: bool = False


def evaluate(
    network: Any,
    trt: Any,
    inputs: Mapping[str, Any],
    wanted: Iterable[str] | None = None,
    plugins: Mapping[str, Meaning] | None = None,
    communicator: Communicator | None = None,
    *,
    given: Mapping[str, Any] | None = None,
    weights: Mapping[str, Any] | None = None,
) -> dict[str, Array]:
    """What the network's tensors are for the given inputs.

    network: an INetworkDefinition of the module `trt` (the real `tensorrt` or one with its API); not changed.
    inputs: name -> array for every network input that the wanted tensors depend on.
    wanted: tensor names, by default the network's outputs. Layers that they do not depend on are not evaluated.
    plugins: by the name of a layer, or of a plugin, the function that it stands for, on arrays of its inputs.
    communicator: for a network with collectives, to the other ranks, which evaluate theirs at the same time with the
        same collectives in the same order (`parallel.run_ranks` makes a thread for each).
    given: by name, tensors whose values are known from elsewhere (a plugin's outputs from the engine); the layers that
        make them are not evaluated.
    weights: elements that the library does not give back (TensorRT's Python API has no array of bfloat16, fp8 and
        int4): of a constant by the layer's name, else by name and role, 'conv.kernel'. `graph.known` has those that our
        functional remembers; int4 goes two to a byte.
    Returns name -> array: float64 for floating tensors (never rounded to half or bfloat16), int32 or int64
    exactly, bool. Raises OracleError for an unknown layer kind, missing or ill-fitting inputs, a cycle, and for
    what TensorRT leaves undefined (coordinates out of strict bounds, integer division by zero); RankError when
    another rank fails.
    """
    known = Evaluator(network, trt, plugins, communicator, weights=weights)
    return known.evaluate(inputs, wanted, given=given)


def trace(
    network: Any,
    trt: Any,
    inputs: Mapping[str, Any],
    wanted: Iterable[str] | None = None,
    plugins: Mapping[str, Meaning] | None = None,
    communicator: Communicator | None = None,
    *,
    given: Mapping[str, Any] | None = None,
    weights: Mapping[str, Any] | None = None,
) -> Iterator[TraceStep]:
    """Every tensor that the wanted ones (default: the outputs) depend on, one by one in execution order.

    Comparing each with an engine's value finds the first that differs. Values are not kept beyond their last use,
    so memory stays near that of the widest point of the network. Arguments and errors as of `evaluate`.
    """
    known = Evaluator(network, trt, plugins, communicator, weights=weights)
    return known.trace(inputs, wanted, given=given)


class Evaluator:
    """One network, to be evaluated more than once: it is read through the API the first time only.

    Arguments as of `evaluate`. Do not change the network while this is in use.
    """

    def __init__(
        self,
        network: Any,
        trt: Any,
        plugins: Mapping[str, Meaning] | None = None,
        communicator: Communicator | None = None,
        *,
        weights: Mapping[str, Any] | None = None,
    ) -> None:
        self._parts = Parts(network, trt)
        self._plugins, self._weights = plugins or {}, weights or {}
        self._communicator = communicator

    def evaluate(
        self,
        inputs: Mapping[str, Any],
        wanted: Iterable[str] | None = None,
        *,
        given: Mapping[str, Any] | None = None,
    ) -> dict[str, Array]:
        """As the function `evaluate`."""
        graph, targets = self._graph(wanted, given)
        names = {tensor: str(tensor.name) for tensor in targets}
        return {names[tensor]: value for tensor, value in graph.run(inputs, targets) if tensor in names}

    def trace(
        self,
        inputs: Mapping[str, Any],
        wanted: Iterable[str] | None = None,
        *,
        given: Mapping[str, Any] | None = None,
    ) -> Iterator[TraceStep]:
        """As the function `trace`."""
        graph, targets = self._graph(wanted, given)
        for tensor, value in graph.run(inputs, targets):
            layer = self._parts.producer.get(tensor)
            layer_name, kind = (
                ("", "INPUT") if layer is None else (str(layer.name), kind_of(layer, graph.trt))
            )
            yield TraceStep(layer_name, kind, str(tensor.name), value, tensor in graph.given)

    def _graph(
        self, wanted: Iterable[str] | None, given: Mapping[str, Any] | None
    ) -> tuple[_Graph, list[Any]]:
        supplied = Supplied(self._plugins, given or {}, self._weights)
        graph = _Graph(self._parts, supplied, self._communicator)
        targets = self._parts.outputs() if wanted is None else [self._parts.tensor(name) for name in wanted]
        return graph, targets


class _Graph:
    """A network with the values that an evaluation starts from, as well as from inputs: no layer is asked for them."""

    def __init__(self, parts: Parts, supplied: Supplied, communicator: Communicator | None) -> None:
        self.trt = parts.trt
        self.communicator = communicator
        self.supplied = supplied
        self.network_inputs = parts.inputs
        self.layers, self.layer_inputs, self.layer_outputs = (
            parts.layers,
            parts.layer_inputs,
            parts.layer_outputs,
        )
        self.marked = parts.marked
        self.has_control = parts.has_control
        self.given = {parts.tensor(name): value for name, value in supplied.given.items()}
        self.position = parts.position
        if self.given:
            self.position = {
                tensor: index for tensor, index in parts.position.items() if tensor not in self.given
            }

    def needed(self, targets: list[Any]) -> set[int]:
        """Positions of the layers that the targets depend on; for all outputs, assertions too."""
        found: set[int] = set()
        pending = [self.position[t] for t in targets if t in self.position]
        if self.marked and self.marked.issubset(targets):
            pending += [index for index, outputs in enumerate(self.layer_outputs) if not outputs]
        while pending:
            index = pending.pop()
            if index not in found:
                found.add(index)
                pending += [self.position[t] for t in self.layer_inputs[index] if t in self.position]
        return found

    def order(self, needed: set[int]) -> list[int]:
        """The needed layers, each after those it depends on; in order of creation where that leaves a choice."""
        waiting: dict[int, int] = {}
        dependants: dict[int, list[int]] = {}
        for index in needed:
            sources = {self.position[t] for t in self.layer_inputs[index] if t in self.position}
            waiting[index] = len(sources)
            for source in sources:
                dependants.setdefault(source, []).append(index)
        ready = [index for index, count in waiting.items() if count == 0]
        heapq.heapify(ready)
        ordered: list[int] = []
        while ready:
            index = heapq.heappop(ready)
            ordered.append(index)
            for dependant in dependants.get(index, ()):
                waiting[dependant] -= 1
                if waiting[dependant] == 0:
                    heapq.heappush(ready, dependant)
        if len(ordered) < len(needed):
            names = [str(self.layers[index].name) for index in sorted(needed - set(ordered))[:5]]
            raise OracleError(f"The network has a cycle through layers such as {names}. Break it.")
        return ordered

    def run(self, inputs: Mapping[str, Any], targets: list[Any]) -> Iterator[tuple[Any, Array]]:
        """Every needed tensor with its value, network inputs first."""
        if self.has_control:
            yield from Control(self, self._evaluated, lambda tensor: self._input(tensor, inputs)).run(targets)
            return
        needed = self.needed(targets)
        order = self.order(needed)
        uses = Counter(t for index in needed for t in self.layer_inputs[index] if t is not None)
        values: dict[Any, Array] = {}
        for tensor in dict.fromkeys((*self.network_inputs, *self.given)):
            if tensor in uses or tensor in targets:
                values[tensor] = self._input(tensor, inputs)
                yield tensor, values[tensor]
        for index in order:
            given = tuple(
                None if t is None else self._value(values, t, index) for t in self.layer_inputs[index]
            )
            results = self._evaluated(index, given)
            for tensor in self.layer_inputs[index]:
                if tensor is not None:
                    uses[tensor] -= 1
                    if not uses[tensor]:
                        values.pop(tensor, None)
            for out, result in zip(self.layer_outputs[index], results, strict=True):
                if out in self.given:
                    continue
                if uses[out]:
                    values[out] = result
                yield out, result

    def _input(self, tensor: Any, inputs: Mapping[str, Any]) -> Array:
        name = str(tensor.name)
        if tensor not in self.given and name not in inputs:
            raise OracleError(f"Input {name!r} is missing. Given: {', '.join(sorted(inputs)) or 'none'}.")
        value = self.given[tensor] if tensor in self.given else inputs[name]
        shape = tuple(int(length) for length in tensor.shape) if _rank(tensor) >= 0 else None
        what = "Input" if tensor in self.network_inputs else "Given tensor"
        return input_value(name, value, member_name(tensor.dtype), shape, what)

    def _value(self, values: dict[Any, Array], tensor: Any, index: int) -> Array:
        if tensor not in values:
            raise OracleError(
                f"Layer {self.layers[index].name!r} reads tensor {tensor.name!r}, which no layer or input gives."
            )
        return values[tensor]

    def _evaluated(self, index: int, given: tuple[Array | None, ...]) -> tuple[Array, ...]:
        layer = self.layers[index]
        kind = kind_of(layer, self.trt)
        if kind not in KINDS and kind not in plugin.KINDS:
            raise OracleError(
                f"Layer {layer.name!r}: the oracle does not know the kind {kind}. It knows {', '.join(KINDS)}. Give "
                "the values of its outputs to go on behind it."
            )
        outputs = self.layer_outputs[index]
        output_type, rank = (member_name(outputs[0].dtype), _rank(outputs[0])) if outputs else ("", -1)
        weights = self.supplied.weights
        call = Call(layer, self.trt, kind, given, output_type, rank, self.communicator, weights)
        with np.errstate(all="ignore"):
            if kind in plugin.KINDS:
                return plugin.evaluated(call, self.supplied.plugins, outputs)
            found = KINDS[kind](call)
            results = found if isinstance(found, tuple) else (found,)
            return tuple(
                _declared(call, number, member_name(out.dtype), np.asarray(result))
                for number, (out, result) in enumerate(zip(outputs, results, strict=True))
            )


def _rank(tensor: Any) -> int:
    try:
        return len(tensor.shape)
    except ValueError:
        return -1


def _declared(call: Call, number: int, output_type: str, value: Array) -> Array:
    """The value in the output's declared type: only cast, identity and an explicit output type may convert it."""
    held = held_as(output_type)
    if value.dtype == held:
        return value
    # From TensorRT 11 on no type can be set: networks have the types that their layers give.
    is_set = getattr(call.layer, "output_type_is_set", lambda index: False)
    if call.kind not in ("CAST", "IDENTITY") and not is_set(number):
        call.refuse(f"it computes {value.dtype}, but its output is declared {output_type}")
    try:
        return converted(value, output_type)
    except ValueError as error:
        call.refuse(str(error))
