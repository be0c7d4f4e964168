"""What a plugin says of its outputs, as data: element types, and lengths as expressions of the inputs' lengths.

The plugin's code is asked when the network is written down. From then on shapes follow from the expressions alone, in
the shape program and before every call of the plugin.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trtllm_ext.embedded.enums import DataType, DimensionOperation
from trtllm_ext.embedded.rules.known import INDICES, MAX_HOST_VOLUME, Known, OperandError, RuleError, can_hold
from trtllm_ext.embedded.rules.reading import as_int, as_list, as_object

_MAX_NODES = 1_000_000
_MAX_OUTPUTS = 4096
_MAX_RANK = 8
_LIMIT = 2**63

# One number of an expression; operands are the positions of earlier nodes:
# ("constant", value), ("length", input, axis), ("element", shape input, position), (operation, first, second),
# ("size", output, most likely value, upper bound): what the plugin itself writes to one of its outputs.
Node = tuple[Any, ...]

Elements = Sequence[int | None]


def _divide(first: int, second: int) -> int:
    if second == 0:
        raise RuleError(f"{first} is divided by 0")
    return first // second


OPERATIONS: Mapping[str, Callable[[int, int], int]] = {
    DimensionOperation.SUM.name: lambda first, second: first + second,
    DimensionOperation.PROD.name: lambda first, second: first * second,
    DimensionOperation.MAX.name: max,
    DimensionOperation.MIN.name: min,
    DimensionOperation.SUB.name: lambda first, second: first - second,
    DimensionOperation.EQUAL.name: lambda first, second: int(first == second),
    DimensionOperation.LESS.name: lambda first, second: int(first < second),
    DimensionOperation.FLOOR_DIV.name: _divide,
    DimensionOperation.CEIL_DIV.name: lambda first, second: -_divide(-first, second),
}


def calculate(operation: str, first: int, second: int) -> int:
    """One operation on lengths. Raises RuleError for a division by 0 and for what takes more than 64 bits."""
    result = OPERATIONS[operation](first, second)
    if not -_LIMIT <= result < _LIMIT:
        raise RuleError(f"{operation} of {first} and {second} takes more than 64 bits")
    return result


@dataclass(frozen=True)
class Signature:
    """Types and shapes of a plugin's outputs.

    `shapes` has for each output the positions in `nodes` of its lengths. The last `num_shape_inputs` inputs of the
    layer are those whose values expressions may use.
    """

    num_inputs: int
    num_shape_inputs: int
    dtypes: tuple[DataType, ...]
    nodes: tuple[Node, ...]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def shape_input_numbers(self) -> range:
        """The inputs whose values expressions may use."""
        return range(self.num_inputs, self.num_inputs + self.num_shape_inputs)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The outputs in which the plugin writes lengths of other outputs."""
        return tuple(node[1] for node in self.nodes if node[0] == "size")

    def output_shapes(
        self,
        shapes: Sequence[tuple[int, ...]],
        elements: Sequence[Elements],
        sizes: Mapping[int, int] | None = None,
    ) -> list[tuple[int, ...]]:
        """The shapes of the outputs, -1 where they are not known.

        shapes: of the inputs, -1 where unknown. elements: of the shape inputs. sizes: what the plugin wrote, by
        output. Raises RuleError for a length that cannot be, and for a size above its bound.
        """

        def size(output: int, upper: int | None) -> int | None:
            written = None if sizes is None else sizes[output]
            if written is not None and not 0 <= written <= (_LIMIT if upper is None else upper):
                raise RuleError(
                    f"the plugin wrote {written} as a size to output {output}, outside of 0 .. {upper}, which it "
                    "declared"
                )
            return written

        return self._placed(self._evaluate(shapes, elements, size))

    def room(self, shapes: Sequence[tuple[int, ...]], elements: Sequence[Elements]) -> list[tuple[int, ...]]:
        """Shapes that are large enough for whatever sizes the plugin will write. Raises RuleError as above."""
        at_most = self._placed(self._evaluate(shapes, elements, lambda output, upper: upper))
        if not self.sizes:
            return at_most
        # A length may also shrink as a size grows.
        at_least = self._evaluate(shapes, elements, lambda output, upper: 0)
        return [
            tuple(max(length, at_least[node] or 0) for length, node in zip(lengths, nodes, strict=True))
            for lengths, nodes in zip(at_most, self.shapes, strict=True)
        ]

    def infer(self, inputs: Sequence[Known | None]) -> list[Known]:
        """What is known of the outputs. Raises RuleError if the inputs do not fit."""
        return self._known(self.output_shapes(*self._split(inputs)))

    def largest(self, inputs: Sequence[Known | None]) -> list[Known]:
        """The outputs with room for whatever sizes the plugin will write. Raises RuleError as above."""
        return self._known(self.room(*self._split(inputs)))

    def _known(self, shapes: list[tuple[int, ...]]) -> list[Known]:
        return [Known(dtype, shape) for dtype, shape in zip(self.dtypes, shapes, strict=True)]

    def _split(self, inputs: Sequence[Known | None]) -> tuple[list[tuple[int, ...]], list[Elements]]:
        shapes, elements = split_operands(inputs, self.num_shape_inputs)
        if len(shapes) != self.num_inputs or len(elements) != self.num_shape_inputs:
            raise OperandError(
                f"there are {len(inputs)} inputs; the plugin was asked about {self.num_inputs + self.num_shape_inputs}"
            )
        return shapes, elements

    def _evaluate(
        self,
        shapes: Sequence[tuple[int, ...]],
        elements: Sequence[Elements],
        size: Callable[[int, int | None], int | None],
    ) -> list[int | None]:
        values: list[int | None] = []
        for node in self.nodes:
            kind, first = node[0], node[1]
            if kind == "constant":
                values.append(first)
            elif kind == "length":
                values.append(_length(shapes, first, node[2]))
            elif kind == "element":
                values.append(_element(elements, first, node[2]))
            elif kind == "size":
                values.append(size(first, values[node[3]]))
            else:
                values.append(_operation(kind, values[first], values[node[2]]))
        return values

    def _placed(self, values: list[int | None]) -> list[tuple[int, ...]]:
        found = []
        for output, nodes in enumerate(self.shapes):
            lengths = []
            for node in nodes:
                length = values[node]
                if length is not None and not 0 <= length < 2**31:
                    raise RuleError(f"the plugin's output {output} would have a length of {length}")
                lengths.append(-1 if length is None else length)
            found.append(tuple(lengths))
        return found

    def to_json(self) -> dict[str, Any]:
        """The signature in JSON's types."""
        return {
            "inputs": self.num_inputs,
            "shape_inputs": self.num_shape_inputs,
            "types": [dtype.name for dtype in self.dtypes],
            "nodes": [list(node) for node in self.nodes],
            "shapes": [list(nodes) for nodes in self.shapes],
        }

    @classmethod
    def from_json(cls, data: Any) -> Signature:
        """The inverse of `to_json()`. Raises ValueError for anything that it did not write."""
        data = as_object(data, {"inputs", "shape_inputs", "types", "nodes", "shapes"})
        num_inputs, num_shape_inputs = (as_int(data[key], 0, 10_000) for key in ("inputs", "shape_inputs"))
        types = as_list(data["types"], 1, _MAX_OUTPUTS)
        if not all(isinstance(name, str) and name in DataType.__members__ for name in types):
            raise ValueError(f"{types!r:.80} are not types of outputs")
        dtypes = tuple(DataType[name] for name in types)
        shapes_data = as_list(data["shapes"], len(dtypes), len(dtypes))
        nodes: list[Node] = []
        for one in as_list(data["nodes"], 0, _MAX_NODES):
            nodes.append(_read_node(one, len(nodes), num_inputs, num_shape_inputs, len(dtypes)))
        shapes = tuple(
            tuple(as_int(node, 0, len(nodes) - 1) for node in as_list(one, 0, _MAX_RANK))
            for one in shapes_data
        )
        signature = cls(num_inputs, num_shape_inputs, dtypes, tuple(nodes), shapes)
        signature.check_sizes()
        return signature

    def check_sizes(self) -> None:
        """Raises RuleError unless outputs with sizes are scalars of INT32 or INT64, each declared once."""
        for output in self.sizes:
            if not 0 <= output < len(self.dtypes):
                raise RuleError(
                    f"a size tensor is declared at output {output}; there are {len(self.dtypes)} outputs"
                )
            if self.dtypes[output] not in INDICES or self.shapes[output]:
                raise RuleError(
                    f"output {output} holds a size, so it must be a 0-d INT32, but it is {self.dtypes[output].name} "
                    f"of {len(self.shapes[output])} dimensions"
                )
        if len(set(self.sizes)) != len(self.sizes):
            raise RuleError("two sizes are declared at one output")


def plugin(
    attributes: Mapping[str, Any], inputs: Sequence[Known | None], strongly_typed: bool
) -> list[Known]:
    """Outputs as the plugin says; `asked`, while a network is written down, asks its code."""
    asked = attributes.get("asked")
    signature: Signature = attributes["signature"] if asked is None else asked(inputs)
    return signature.infer(inputs)


def split_operands(
    inputs: Sequence[Known | None], num_shape_inputs: int
) -> tuple[list[tuple[int, ...]], list[Elements]]:
    """Shapes of the inputs, and elements of the shape inputs behind them.

    Raises OperandError for a shape input that is none.
    """
    first = len(inputs) - num_shape_inputs
    shapes: list[tuple[int, ...]] = []
    elements: list[Elements] = []
    for number, known in enumerate(inputs):
        if known is None:
            raise OperandError(f"input {number} is missing")
        if number < first:
            shapes.append(known.shape)
            continue
        if known.dtype not in INDICES or not can_hold(known.dtype, known.shape):
            raise OperandError(
                f"shape input {number - first} is {known.dtype.name} {known.shape}; it must be INT32 or INT64, of a "
                f"known shape and at most {MAX_HOST_VOLUME} elements"
            )
        elements.append(tuple(known.elements().reshape(-1).tolist()))
    return shapes, elements


def _length(shapes: Sequence[tuple[int, ...]], number: int, axis: int) -> int | None:
    if number >= len(shapes) or axis >= len(shapes[number]):
        raise RuleError(f"the plugin uses dimension {axis} of input {number}, which is not there")
    length = shapes[number][axis]
    return None if length < 0 else length


def _element(elements: Sequence[Elements], number: int, position: int) -> int | None:
    if number >= len(elements) or position >= len(elements[number]):
        raise RuleError(f"the plugin uses element {position} of shape input {number}, which is not there")
    return elements[number][position]


def _operation(operation: str, first: int | None, second: int | None) -> int | None:
    if first is None or second is None:
        return None
    return calculate(operation, first, second)


def _read_node(data: Any, position: int, num_inputs: int, num_shape_inputs: int, num_outputs: int) -> Node:
    kind, *numbers = as_list(data, 2, 4)
    earlier = (0, position - 1)
    ranges: dict[str, tuple[tuple[int, int], ...]] = {
        "constant": ((-_LIMIT, _LIMIT - 1),),
        "length": ((0, num_inputs - 1), (0, _MAX_RANK - 1)),
        "element": ((0, num_shape_inputs - 1), (0, MAX_HOST_VOLUME - 1)),
        "size": ((0, num_outputs - 1), earlier, earlier),
        **dict.fromkeys(OPERATIONS, (earlier, earlier)),
    }
    if not isinstance(kind, str) or kind not in ranges or len(numbers) != len(ranges[kind]):
        raise ValueError(f"{data!r:.80} is no part of a plugin's expression")
    return (kind, *(as_int(one, *bounds) for one, bounds in zip(numbers, ranges[kind], strict=True)))
