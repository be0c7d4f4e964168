"""Loops: one ONNX Loop each."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from trtllm_ext.lowering.element_types import BOOL, INT64, onnx_type_of
from trtllm_ext.lowering.layer import Layer
from trtllm_ext.lowering.layer_view import LayerView
from trtllm_ext.lowering.loop_outputs import Collected, concatenated
from trtllm_ext.lowering.loop_shapes import shape_inside
from trtllm_ext.lowering.lower_layers import lower_layers
from trtllm_ext.lowering.regions import LoopView
from trtllm_ext.lowering.registry import lowers
from trtllm_ext.lowering.values import Value

Values = dict[int, Value]


@lowers("LOOP")
def loop(layer: Layer) -> tuple[Value, ...]:
    """The outputs of a loop. It ends at the trip count, or before the first iteration that its WHILE limit forbids."""
    view, emitter = layer.view, layer.emitter
    assert isinstance(view, LoopView)  # for mypy: the kind says so
    outside: Values = {
        id(tensor): value for tensor, value in zip(view.inputs, layer.values, strict=True) if value
    }
    limits = {limit.api.kind.name: limit.inputs[0] for limit in view.loop.limits}
    count = outside[id(limits["COUNT"])] if "COUNT" in limits else None
    if count is not None:
        count = emitter.cast(count, INT64)
    carried = [_carried(layer, one, outside[id(one.inputs[0])]) for one in view.loop.recurrences]
    recurring = [one.outputs[0] for one in view.loop.recurrences]
    going = _going_on(layer, limits, outside | _by_id(recurring, carried))

    emitter.open_graph(repeats=True)
    number = emitter.graph_input(f"{view.name}/iteration", INT64)
    emitter.graph_input(f"{view.name}/going on", BOOL)
    state = [
        emitter.graph_input(tensor.name, value.onnx_type, value)
        for tensor, value in zip(recurring, carried, strict=True)
    ]
    inside = outside | _by_id(recurring, state)
    for one in view.loop.iterators:
        inside[id(one.outputs[0])] = _slice(layer, one, outside[id(one.inputs[0])], number, count)
    lower_layers(emitter, layer.network, view.body, inside)
    following = [
        emitter.cast(inside[id(one.inputs[1])], value.onnx_type)
        for one, value in zip(view.loop.recurrences, carried, strict=True)
    ]
    go_on = _going_on(layer, limits, inside | _by_id(recurring, following))
    collected = [one for one in view.loop.outputs if one.api.kind.name != "LAST_VALUE"]
    # What is passed on has the shape of the initial value, whatever more is known of that.
    inside |= {
        id(one.inputs[1]): replace(value, shape=initial.shape, symbols=initial.symbols)
        for one, value, initial in zip(view.loop.recurrences, following, carried, strict=True)
        if value.data is None
    }
    given = [inside[id(one.inputs[0])] for one in collected]
    emitter.scope = view.name
    graph = emitter.close_graph([go_on or emitter.scalar(True, BOOL), *following, *given])

    outputs = [(value.onnx_type, value.shape) for value in carried]
    outputs += [(value.onnx_type, (-1, *value.shape)) for value in given]
    results = emitter.node_with_graphs("Loop", [count, going, *carried], outputs, body=graph)
    return _outputs(layer, view, results, given, outside | _by_id(recurring, carried))


def _by_id(tensors: list[Any], values: list[Value]) -> Values:
    return {id(tensor): value for tensor, value in zip(tensors, values, strict=True)}


def _carried(layer: Layer, recurrence: LayerView, initial: Value) -> Value:
    """An initial value in the type of its recurrence."""
    dtype = recurrence.outputs[0].dtype
    return layer.emitter.cast(initial, onnx_type_of(dtype, f"the output of {recurrence}"))


def _going_on(layer: Layer, limits: Mapping[str, Any], values: Values) -> Value | None:
    """Whether an iteration may begin with these values of the recurrences; None if no WHILE limit asks."""
    if "WHILE" not in limits:
        return None
    assert isinstance(layer.view, LoopView)  # for mypy: the kind says so
    needed = layer.view.needed_by(limits["WHILE"])
    read = {id(limits["WHILE"])}.union(id(tensor) for one in needed for tensor in one.inputs)
    wrong = [one for one in layer.view.loop.iterators if id(one.outputs[0]) in read]
    wrong += [one for one in needed if isinstance(one, LoopView)]
    if wrong:
        raise layer.refusal(
            f"its WHILE limit depends on {wrong[0]}; it may depend on recurrences of the loop, but on no iterator and "
            "no loop inside"
        )
    values = dict(values)
    lower_layers(layer.emitter, layer.network, needed, values)
    return values[id(limits["WHILE"])]


def _slice(layer: Layer, iterator: LayerView, data: Value, number: Value, count: Value | None) -> Value:
    """The slice of an iteration."""
    emitter, axis = layer.emitter, int(iterator.api.axis)
    emitter.scope = iterator.name
    if iterator.api.reverse:
        if count is None:
            raise layer.refusal(f"{iterator} runs in reverse, which needs a trip limit of kind COUNT")
        number = emitter.map("Sub", emitter.map("Sub", count, emitter.ints(1)), number)
    shape = data.shape[:axis] + data.shape[axis + 1 :]
    symbols = data.symbols[:axis] + data.symbols[axis + 1 :]
    taken = emitter.node("Gather", [data, number], data.onnx_type, shape, axis=axis)
    return replace(emitter.rename(taken, iterator.outputs[0].name, reserved=False), symbols=symbols)


def _outputs(
    layer: Layer, view: LoopView, results: tuple[Value, ...], given: list[Value], before: Values
) -> tuple[Value, ...]:
    """What leaves the loop, of what its node gives: the last state, and the collected values.

    before: what was there before the loop, with the initial values of the recurrences as theirs.
    """
    last = {
        id(one.outputs[0]): replace(value, symbols=before[id(one.outputs[0])].symbols)
        for one, value in zip(view.loop.recurrences, results, strict=False)
    }
    scans = iter(zip(given, results[len(last) :], strict=True))
    limits = {limit.api.kind.name: limit.inputs[0] for limit in view.loop.limits}
    found = []
    for one in view.loop.outputs:
        kind = one.api.kind.name
        if kind == "LAST_VALUE":
            if id(one.inputs[0]) not in last:
                raise layer.refusal(
                    f"{one} is of kind LAST_VALUE, but its input is no recurrence of the loop"
                )
            found.append(last[id(one.inputs[0])])
            continue
        value, scan = next(scans)
        layer.emitter.scope = one.name
        length = before[id(one.inputs[1])]
        is_exact = "WHILE" not in limits and _are_equal(length, before[id(limits["COUNT"])])
        imagined = partial(shape_inside, layer, view, one.inputs[0], scan, before)
        collected = Collected(value, scan, length, is_exact, imagined)
        found.append(
            concatenated(
                layer.emitter,
                collected,
                int(one.api.axis),
                reverse=kind == "REVERSE",
                outside=before.values(),
            )
        )
    return tuple(found)


def _are_equal(one: Value, other: Value) -> bool:
    known = one.elements is not None and None not in one.elements
    return one is other or (known and one.elements == other.elements)
