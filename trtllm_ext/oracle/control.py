"""Loops and conditionals: evaluation on demand, each tensor in the iteration that it belongs to.

What depends on a recurrence or iterator of a loop, other than through a loop output, has one value in each
iteration; everything else has one value. A conditional asks for the tensors of the chosen branch only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trtllm_ext.oracle.boundaries import Boundaries, Graph, Loop
from trtllm_ext.oracle.errors import OracleError
from trtllm_ext.oracle.values import Array, held_as, member_name


@dataclass(eq=False)
class Iteration:
    """The values of one iteration of a loop; `around` is the iteration, or the whole network, that it lies in."""

    loop: Loop | None
    around: Iteration | None
    values: dict[Any, Array] = field(default_factory=dict)


class Control:
    """Values of a network with loops and conditionals.

    evaluated(index, given): the outputs of an ordinary layer. feed(tensor): the value of a network input.
    """

    def __init__(
        self,
        graph: Graph,
        evaluated: Callable[[int, tuple[Array | None, ...]], tuple[Array, ...]],
        feed: Callable[[Any], Array],
    ) -> None:
        self._graph = graph
        self._evaluated = evaluated
        self._feed = feed
        self._boundaries = Boundaries(graph)
        self._kinds = self._boundaries.kinds

    def run(self, targets: list[Any]) -> Iterator[tuple[Any, Array]]:
        """The values outside of all loops that the targets need, as they come about."""
        network = Iteration(None, None)
        reported: set[Any] = set()
        for target in targets:
            self._value(target, network)
            for tensor, value in list(network.values.items()):
                if tensor not in reported:
                    reported.add(tensor)
                    yield tensor, value

    def _value(self, wanted: Any, iteration: Iteration) -> Array:
        """The value of a tensor in an iteration. Recurses only from a loop into the next loop inside it."""
        stack = [wanted]
        waiting: dict[Any, list[Any]] = {}
        while stack:
            tensor = stack[-1]
            home = self._home(tensor, iteration)
            if tensor in home.values:
                stack.pop()
                continue
            index = self._graph.position.get(tensor)
            if index is None:
                home.values[tensor] = self._feed(tensor)
                continue
            missing = [one for one in self._asked(index, iteration) if not self._has(one, iteration)]
            if missing and waiting.get(tensor) == missing:
                name = self._graph.layers[index].name
                raise OracleError(f"The network has a cycle through layers such as {name!r}. Break it.")
            waiting[tensor] = missing
            if missing:
                stack.extend(reversed(missing))
            else:
                home.values.update(self._made(index, home))
        return self._home(wanted, iteration).values[wanted]

    def _home(self, tensor: Any, iteration: Iteration) -> Iteration:
        index = self._graph.position.get(tensor)
        loops: set[Loop] = set() if index is None else self._boundaries.inside[index]
        while iteration.loop is not None and iteration.loop not in loops and iteration.around is not None:
            iteration = iteration.around
        if iteration.loop is None and loops:
            names = sorted(loop.name for loop in loops)
            raise OracleError(
                f"Tensor {tensor.name!r} is computed inside the loop {names[0]!r}, but read outside."
            )
        return iteration

    def _has(self, tensor: Any, iteration: Iteration) -> bool:
        return tensor in self._home(tensor, iteration).values

    def _asked(self, index: int, iteration: Iteration) -> list[Any]:
        """The tensors that must be there before a layer is evaluated."""
        kind, inputs = self._kinds[index], self._graph.layer_inputs[index]
        if kind in ("RECURRENCE", "ITERATOR"):
            raise OracleError(f"Layer {self._graph.layers[index].name!r} is read outside of its loop.")
        if kind == "LOOP_OUTPUT":
            return self._before(self._boundaries.loop_of[index])
        if kind != "CONDITIONAL_OUTPUT":
            return [tensor for tensor in inputs if tensor is not None]
        condition = self._condition(index)
        if not self._has(condition, iteration):
            return [condition]
        return [inputs[0 if self._home(condition, iteration).values[condition] else 1]]

    def _condition(self, index: int) -> Any:
        layer = self._graph.layers[index]
        try:
            return self._boundaries.condition_of[id(layer.conditional)]
        except KeyError:
            raise OracleError(f"Layer {layer.name!r}: its conditional has no condition.") from None

    def _before(self, loop: Loop) -> list[Any]:
        """What a loop needs before its first iteration."""
        inputs = self._graph.layer_inputs
        needed = [inputs[index][0] for index in (*loop.recurrences, *loop.iterators)]
        needed += [inputs[index][1] for index in loop.outputs if len(inputs[index]) > 1]
        return needed + ([loop.limits["COUNT"]] if "COUNT" in loop.limits else [])

    def _made(self, index: int, iteration: Iteration) -> dict[Any, Array]:
        """The outputs of a layer, all that it needs being there; of a loop's output layer those of the whole loop."""
        kind, inputs = self._kinds[index], self._graph.layer_inputs[index]
        outputs = self._graph.layer_outputs[index]
        if kind == "LOOP_OUTPUT":
            return self._looped(self._boundaries.loop_of[index], iteration)
        if kind == "CONDITIONAL_INPUT":
            return {outputs[0]: self._value(inputs[0], iteration)}
        if kind == "CONDITIONAL_OUTPUT":
            chosen = inputs[0 if self._value(self._condition(index), iteration) else 1]
            return {outputs[0]: self._value(chosen, iteration)}
        given = tuple(None if tensor is None else self._value(tensor, iteration) for tensor in inputs)
        return dict(zip(outputs, self._evaluated(index, given), strict=True))

    def _looped(self, loop: Loop, around: Iteration) -> dict[Any, Array]:
        """Run a loop: the values of its outputs."""
        inputs, outputs = self._graph.layer_inputs, self._graph.layer_outputs
        if not loop.limits:
            raise OracleError(f"The loop {loop.name!r} has no trip limit.")
        count = int(self._value(loop.limits["COUNT"], around)) if "COUNT" in loop.limits else None
        state = {outputs[index][0]: self._value(inputs[index][0], around) for index in loop.recurrences}
        collected: dict[int, list[Array]] = {index: [] for index in loop.outputs}
        trip = 0
        while count is None or trip < count:
            iteration = Iteration(loop, around, dict(state))
            if "WHILE" in loop.limits and not self._value(loop.limits["WHILE"], iteration):
                break
            for index in loop.iterators:
                iteration.values[outputs[index][0]] = self._slice(index, around, trip, count)
            for index in loop.outputs:
                if not self._is_last_value(index):
                    collected[index].append(self._value(inputs[index][0], iteration))
            state = {outputs[index][0]: self._next(index, iteration, state) for index in loop.recurrences}
            trip += 1
        return {
            outputs[index][0]: state[inputs[index][0]]
            if self._is_last_value(index)
            else self._joined(index, collected[index], around)
            for index in loop.outputs
        }

    def _is_last_value(self, index: int) -> bool:
        return member_name(self._graph.layers[index].kind) == "LAST_VALUE"

    def _next(self, index: int, iteration: Iteration, state: dict[Any, Array]) -> Array:
        inputs = self._graph.layer_inputs[index]
        layer = self._graph.layers[index]
        if len(inputs) < 2 or inputs[1] is None:
            raise OracleError(f"Layer {layer.name!r}: input 1, the next value, is not set.")
        value, before = self._value(inputs[1], iteration), state[self._graph.layer_outputs[index][0]]
        if value.shape != before.shape:
            raise OracleError(
                f"Layer {layer.name!r}: its shape changes from {before.shape} to {value.shape}."
            )
        return value

    def _slice(self, index: int, around: Iteration, trip: int, count: int | None) -> Array:
        layer = self._graph.layers[index]
        data = self._value(self._graph.layer_inputs[index][0], around)
        if layer.reverse:
            if count is None:
                raise OracleError(f"Layer {layer.name!r}: going in reverse needs a trip limit of kind COUNT.")
            trip = count - 1 - trip
        if not 0 <= trip < data.shape[layer.axis]:
            raise OracleError(
                f"Layer {layer.name!r}: there is no slice {trip} in a tensor of shape {data.shape}."
            )
        return np.take(data, trip, axis=layer.axis)

    def _joined(self, index: int, values: list[Array], around: Iteration) -> Array:
        """The values one after another; TensorRT leaves open what follows after an early end, here it is zeros."""
        layer, inputs = self._graph.layers[index], self._graph.layer_inputs[index]
        if len(inputs) < 2 or inputs[1] is None:
            raise OracleError(f"Layer {layer.name!r}: input 1, the length, is not set.")
        length = int(self._value(inputs[1], around))
        if member_name(layer.kind) == "REVERSE":
            values = values[::-1]
        axis = int(layer.axis)
        # Without an iteration, an iteration over zeros tells the shape.
        shape = list((values or [self._imagined(index, around)])[0].shape)
        shape.insert(axis, length)
        result = np.zeros(shape, held_as(member_name(inputs[0].dtype)))
        for place, value in enumerate(values[:length]):
            result[(slice(None),) * axis + (place,)] = value
        return result

    def _imagined(self, index: int, around: Iteration) -> Array:
        """What a loop output would be given in an iteration over zeros."""
        inputs, outputs = self._graph.layer_inputs, self._graph.layer_outputs
        loop = self._boundaries.loop_of[index]
        iteration = Iteration(loop, around)
        for one in loop.recurrences:
            iteration.values[outputs[one][0]] = self._value(inputs[one][0], around)
        for one in loop.iterators:
            data = self._value(inputs[one][0], around)
            lengths = list(data.shape)
            del lengths[int(self._graph.layers[one].axis)]
            iteration.values[outputs[one][0]] = np.zeros(lengths, data.dtype)
        return self._value(inputs[index][0], iteration)
