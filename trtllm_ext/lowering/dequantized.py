"""What is known of a tensor that a dequantize layer makes: the integers behind it, and their scale."""

from dataclasses import dataclass
from math import prod

from trtllm_ext.lowering.layer import Layer
from trtllm_ext.lowering.layer_view import LayerView
from trtllm_ext.lowering.movement import shuffle
from trtllm_ext.lowering.values import Value

# Movements followed between a dequantize layer and its product; what lies behind more of them is taken as floats.
_MAX_STEPS = 8


@dataclass(frozen=True)
class Dequantized:
    """A tensor equal to `integers * scale`.

    integers: INT8 in the tensor's shape. scale: float32; 1-D along `axis`, or one number of any rank if axis is None.
    """

    integers: Value
    scale: Value
    axis: int | None


def dequantized_input(layer: Layer, index: int) -> Dequantized | None:
    """What is behind input `index` of a layer, through reshapes and transposes; None if it is not dequantized INT8."""
    known: dict[int, Dequantized] = layer.network.dequantized
    tensor, moves = layer.view.inputs[index], list[LayerView]()
    while id(tensor) not in known:
        producer = layer.network.producer(tensor)
        if producer is None or len(moves) == _MAX_STEPS or not _is_movement(producer):
            return None
        moves.append(producer)
        tensor = producer.inputs[0]
    found = known[id(tensor)]
    for move in reversed(moves):
        moved = _moved(layer, move, found)
        if moved is None:
            return None
        found = moved
    return found


def _is_movement(layer: LayerView) -> bool:
    return layer.kind == "SHUFFLE" and all(tensor is None for tensor in layer.inputs[1:])


def _moved(layer: Layer, move: LayerView, found: Dequantized) -> Dequantized | None:
    """`found` after a shuffle; None if the dimension of its scale does not stay one."""
    axis = found.axis
    if axis is not None:
        axis = _axis_after(move, found.integers.shape, axis)
        if axis is None:
            return None
    integers = shuffle(Layer(layer.emitter, layer.network, move, (found.integers,)))
    assert isinstance(integers, Value)  # for the type checker: a shuffle has one output
    return Dequantized(integers, found.scale, axis)


def _axis_after(move: LayerView, shape: tuple[int, ...], axis: int) -> int | None:
    first = tuple(move.api.first_transpose)[: len(shape)]
    out = tuple(move.outputs[0].shape)
    second = tuple(move.api.second_transpose)[: len(out)]
    before = [shape[source] for source in first]
    after = [0] * len(out)
    for place, source in enumerate(second):
        after[source] = out[place]
    at = first.index(axis)
    if -1 in before or -1 in after:
        return second.index(at) if before == after and before.count(-1) <= 1 else None
    # A reshape keeps the dimension whole if it finds it with as many elements before it.
    for place, length in enumerate(after):
        if length == before[at] and prod(after[:place]) == prod(before[:at]):
            return second.index(place)
    return None
