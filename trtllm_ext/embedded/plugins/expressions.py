"""The expressions in which a plugin tells the lengths of its outputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import overload

from trtllm_ext.embedded.enums import DimensionOperation
from trtllm_ext.embedded.rules.plugin import Node, calculate
from trtllm_ext.embedded.types import index_of

_NOT_CONSTANT = -(2**63)


class IDimensionExpr:
    """A number that is known, or that follows from lengths of inputs. Made by an IExprBuilder."""

    __slots__ = ("_builder", "_index")

    _builder: IExprBuilder
    _index: int

    def __init__(self) -> None:
        raise TypeError("IDimensionExpr: No constructor defined! Expressions are made by an IExprBuilder.")

    @property
    def _node(self) -> Node:
        return self._builder._nodes[self._index]

    def is_constant(self) -> bool:
        """Whether the number is known while the engine is built."""
        return bool(self._node[0] == "constant")

    def get_constant_value(self) -> int:
        """The number, or the smallest of 64 bits if it is not known."""
        return int(self._node[1]) if self.is_constant() else _NOT_CONSTANT

    def is_size_tensor(self) -> bool:
        """Whether the plugin writes the number to one of its outputs."""
        return bool(self._node[0] == "size")


class IExprBuilder:
    """Makes the expressions of one call of `get_output_shapes()`; those of another call do not mix with them."""

    def __init__(self) -> None:
        self._nodes: list[Node] = []
        self._indices: dict[Node, int] = {}

    def constant(self, value: int) -> IDimensionExpr:
        """A number that is known."""
        return self._expression(("constant", index_of(value, "the value of a constant")))

    def operation(
        self, op: DimensionOperation, first: IDimensionExpr, second: IDimensionExpr
    ) -> IDimensionExpr:
        """`first op second`. Raises RuleError (a ValueError) for a division by 0 and for overflow."""
        if not isinstance(op, DimensionOperation):
            raise TypeError(f"an operation is a DimensionOperation, not {op!r}")
        positions = (self._position(first), self._position(second))
        if first.is_constant() and second.is_constant():
            return self.constant(calculate(op.name, first.get_constant_value(), second.get_constant_value()))
        return self._expression((op.name, *positions))

    def declare_size_tensor(
        self, output_index: int, opt: IDimensionExpr, upper: IDimensionExpr
    ) -> IDimensionExpr:
        """The number that the plugin will write to output `output_index`, at most `upper`, most likely `opt`."""
        output = index_of(output_index, "the output of a size tensor")
        if any(node[:2] == ("size", output) for node in self._nodes):
            raise ValueError(f"output {output} is declared a size tensor already")
        return self._expression(("size", output, self._position(opt), self._position(upper)))

    def _position(self, expression: IDimensionExpr) -> int:
        if not isinstance(expression, IDimensionExpr):
            raise TypeError(f"an operand is an IDimensionExpr, not {expression!r}")
        if expression._builder is not self:
            raise ValueError(
                "an expression of another call is used; expressions are valid until get_output_shapes() returns"
            )
        return expression._index

    def _expression(self, node: Node) -> IDimensionExpr:
        index = self._indices.get(node)
        if index is None:
            index = self._indices[node] = len(self._nodes)
            self._nodes.append(node)
        expression = object.__new__(IDimensionExpr)
        expression._builder, expression._index = self, index
        return expression


class DimsExprs:
    """The lengths of a tensor as expressions: `DimsExprs(rank)`, or from expressions."""

    __slots__ = ("_expressions",)

    def __init__(self, dims: int | Iterable[IDimensionExpr] = ()) -> None:
        if isinstance(dims, Iterable):
            self._expressions: list[IDimensionExpr | None] = [_checked(one) for one in dims]
            return
        rank = index_of(dims, "the number of dimensions")
        if rank < 0:
            raise ValueError(f"{rank} is no number of dimensions")
        self._expressions = [None] * rank

    def __len__(self) -> int:
        return len(self._expressions)

    def __iter__(self) -> Iterator[IDimensionExpr]:
        return iter(self[:])

    @overload
    def __getitem__(self, index: int) -> IDimensionExpr: ...
    @overload
    def __getitem__(self, index: slice) -> list[IDimensionExpr]: ...
    def __getitem__(self, index: int | slice) -> IDimensionExpr | list[IDimensionExpr]:
        try:
            return self._expressions[index]  # type: ignore[return-value]  # None until it is set, as in TensorRT
        except IndexError:
            raise IndexError(f"Out of bounds: index {index} of {len(self)} dimensions") from None

    def __setitem__(self, index: int, expression: IDimensionExpr) -> None:
        if not -len(self) <= index < len(self):
            raise IndexError(f"Out of bounds: index {index} of {len(self)} dimensions")
        self._expressions[index] = _checked(expression)


def _checked(expression: IDimensionExpr) -> IDimensionExpr:
    if not isinstance(expression, IDimensionExpr):
        raise TypeError(
            f"a dimension is an IDimensionExpr, not {expression!r}; IExprBuilder.constant() makes one of a number"
        )
    return expression
