"""What must be known of a serialized ONNX model before it is opened, read from its bytes.

A model is a protobuf message: a sequence of fields, each a number with a value. Reading the few that matter takes
no time; importing onnx for them would take longer than loading a mapped engine.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from trtllm_ext.errors import EngineError

# Field numbers of onnx.proto, and TensorProto.DataLocation.EXTERNAL.
_GRAPH = 7
_NODE, _INITIALIZER = 1, 5
_NODE_INPUT, _NODE_OUTPUT, _NODE_OP, _NODE_ATTRIBUTE = 1, 2, 4, 5
_ATTRIBUTE_GRAPH = 6
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_LOCATION = 1, 2, 8, 14
_EXTERNAL = 1

_FLOAT = 1
_PRODUCTS = ("MatMul", "FusedMatMul", "Gemm")


@dataclass(frozen=True)
class Initializer:
    """An initializer whose data is outside of the model."""

    onnx_type: int
    shape: tuple[int, ...]


def external_initializers(model: memoryview) -> Mapping[str, Initializer]:
    """The initializers with data outside of `model`, by name. Raises EngineError if it is no ONNX model."""
    with _refusing():
        return _external(_initializers(model))


def lasting_initializers(model: memoryview) -> set[str]:
    """External initializers that are still read in runs after ONNX Runtime has folded and packed what it can.

    It folds what is computed from constants alone, and packs float matrices that are right operands of products. What
    the graphs of loops and conditionals read counts as read.
    Raises EngineError if `model` is no ONNX model.
    """
    with _refusing():
        return _lasting(model, _initializers(model))


def _initializers(model: memoryview) -> list[tuple[str, Initializer, bool]]:
    """Name, type and shape of each initializer, and whether its data are outside of the model."""
    return [_initializer(value) for value in _graph_fields(model, _INITIALIZER)]


def _external(initializers: list[tuple[str, Initializer, bool]]) -> Mapping[str, Initializer]:
    return {name: initializer for name, initializer, is_external in initializers if is_external}


def _lasting(model: memoryview, initializers: list[tuple[str, Initializer, bool]]) -> set[str]:
    external = _external(initializers)
    constants = {name for name, _, _ in initializers}
    lasting: set[str] = set()
    for node in _graph_fields(model, _NODE):
        fields = list(_fields(node))
        inputs, outputs = (
            [_text(value) for number, value in fields if number == wanted]
            for wanted in (_NODE_INPUT, _NODE_OUTPUT)
        )
        graphs = _graphs_inside(fields)
        if graphs:
            lasting.update(name for name in (*inputs, *_read_in(graphs)) if name in external)
            continue
        if constants.issuperset(inputs):
            constants.update(outputs)
            continue
        is_product = any(number == _NODE_OP and _text(value) in _PRODUCTS for number, value in fields)
        for position, name in enumerate(inputs):
            is_packed = is_product and position == 1 and name in external and _is_float_matrix(external[name])
            if name in external and not is_packed:
                lasting.add(name)
    return lasting


def _graphs_inside(node: list[tuple[int, int | memoryview]]) -> list[memoryview]:
    """The graphs among the attributes of a node."""
    attributes = [_message(value) for number, value in node if number == _NODE_ATTRIBUTE]
    return [
        _message(value)
        for attribute in attributes
        for number, value in _fields(attribute)
        if number == _ATTRIBUTE_GRAPH
    ]


def _read_in(graphs: list[memoryview]) -> Iterator[str]:
    """What the nodes of graphs read, and those of the graphs inside them."""
    stack = list(graphs)
    while stack:
        for number, node in _fields(stack.pop()):
            if number == _NODE:
                fields = list(_fields(_message(node)))
                yield from (_text(value) for key, value in fields if key == _NODE_INPUT)
                stack.extend(_graphs_inside(fields))


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise EngineError(f"a segment of the engine is no ONNX model: {error}") from None


def _is_float_matrix(initializer: Initializer) -> bool:
    return initializer.onnx_type == _FLOAT and len(initializer.shape) == 2


def _graph_fields(model: memoryview, wanted: int) -> Iterator[memoryview]:
    for number, graph in _fields(model):
        if number == _GRAPH:
            yield from (_message(value) for key, value in _fields(_message(graph)) if key == wanted)


def _initializer(tensor: memoryview) -> tuple[str, Initializer, bool]:
    name, onnx_type, location = "", 0, 0
    shape: list[int] = []
    for number, value in _fields(tensor):
        if number == _TENSOR_NAME:
            name = _text(value)
        elif number == _TENSOR_TYPE:
            onnx_type = _number(value)
        elif number == _TENSOR_LOCATION:
            location = _number(value)
        elif number == _TENSOR_DIMS:
            shape.extend([value] if isinstance(value, int) else _varints(value))
    return name, Initializer(onnx_type, tuple(shape)), location == _EXTERNAL


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field; the values of fixed-size fields, which nobody asks for, are left out."""
    position, size = 0, len(message)
    while position < size:
        key = message[position]  # nearly all keys, and most lengths, are of one byte
        key, position = (key, position + 1) if key < 0x80 else _varint(message, position)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, position = _varint(message, position)
            yield number, value
            continue
        if kind == 2:
            length = message[position] if position < size else 0x80
            length, position = (length, position + 1) if length < 0x80 else _varint(message, position)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"field {number} has the unknown kind {kind}")
        end = position + length
        if end > size:
            raise ValueError(f"field {number} is longer than what it lies in")
        if kind == 2:
            yield number, message[position:end]
        position = end


def _varints(message: memoryview) -> Iterator[int]:
    position = 0
    while position < len(message):
        value, position = _varint(message, position)
        yield value


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """An integer in groups of 7 bits, lowest first, and the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            break
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number in it has no end")


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number stands where a message belongs")
    return value


def _number(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise ValueError("a message stands where a number belongs")
    return value


def _text(value: int | memoryview) -> str:
    return str(_message(value), "utf-8")
