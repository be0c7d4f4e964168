"""Rules of layers that work element by element: elementwise, unary, activation, select, cast, identity."""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from trtllm_ext.embedded.enums import ActivationType, DataType, ElementWiseOperation, UnaryOperation
from trtllm_ext.embedded.rules.known import (
    FLOATS,
    INDICES,
    NUMBERS,
    HostValue,
    Known,
    OperandError,
    RuleError,
    can_hold,
    describe,
    fit,
    known_with,
)
from trtllm_ext.embedded.rules.typing import common_type, require_type

_COMPARISONS = frozenset(
    {ElementWiseOperation.EQUAL, ElementWiseOperation.GREATER, ElementWiseOperation.LESS},
)
_LOGIC = frozenset({ElementWiseOperation.AND, ElementWiseOperation.OR, ElementWiseOperation.XOR})


def _truncated_quotient(a: Any, b: Any) -> Any:
    if isinstance(a, float):
        return _float_quotient(a, b)
    if b == 0:
        return None
    quotient = abs(a) // abs(b)
    return quotient if (a >= 0) == (b >= 0) else -quotient


def _floored_quotient(a: Any, b: Any) -> Any:
    if isinstance(a, float):
        quotient = _float_quotient(a, b)
        return math.floor(quotient) if math.isfinite(quotient) else None
    return None if b == 0 else a // b


def _float_quotient(a: float, b: float) -> float:
    with np.errstate(all="ignore"):
        return float(np.float32(a) / np.float32(b))


def _power(a: Any, b: Any) -> Any:
    # powf differs in the last bit between libraries, so a float result is not known; nor is an exponent that
    # certainly overflows worth computing.
    if isinstance(a, float) or b < 0 or b > 64:
        return None
    return a**b


_BINARY: dict[ElementWiseOperation, Callable[[Any, Any], Any]] = {
    ElementWiseOperation.SUM: operator.add,
    ElementWiseOperation.PROD: operator.mul,
    ElementWiseOperation.MAX: lambda a, b: None if a != a or b != b else max(a, b),
    ElementWiseOperation.MIN: lambda a, b: None if a != a or b != b else min(a, b),
    ElementWiseOperation.SUB: operator.sub,
    ElementWiseOperation.DIV: _truncated_quotient,
    ElementWiseOperation.POW: _power,
    ElementWiseOperation.FLOOR_DIV: _floored_quotient,
    ElementWiseOperation.AND: operator.and_,
    ElementWiseOperation.OR: operator.or_,
    ElementWiseOperation.XOR: operator.xor,
    ElementWiseOperation.EQUAL: operator.eq,
    ElementWiseOperation.GREATER: operator.gt,
    ElementWiseOperation.LESS: operator.lt,
}

_UNARY_INT = frozenset({UnaryOperation.ABS, UnaryOperation.NEG, UnaryOperation.SIGN})

# Functions of a finite float that every library computes to the same bits.
_UNARY: dict[UnaryOperation, Callable[[Any], Any]] = {
    UnaryOperation.ABS: abs,
    UnaryOperation.NEG: operator.neg,
    UnaryOperation.SIGN: lambda a: (a > 0) - (a < 0),
    UnaryOperation.NOT: operator.not_,
    UnaryOperation.CEIL: math.ceil,
    UnaryOperation.FLOOR: math.floor,
    UnaryOperation.ROUND: round,  # half to even, as kROUND
    UnaryOperation.SQRT: lambda a: None if a < 0 else float(np.sqrt(np.float32(a))),
    UnaryOperation.RECIP: lambda a: _float_quotient(1.0, a),
    UnaryOperation.ISINF: lambda a: False,
    UnaryOperation.ISNAN: lambda a: False,
}


def broadcast(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of a broadcast of shapes of one rank.

    A length of 1 stretches. An unknown length beside a known one other than 1 can only be 1 or that one.
    Raises RuleError where two known lengths differ.
    """
    if len({len(shape) for shape in shapes}) > 1:
        raise OperandError(
            f"inputs must have the same number of dimensions, but their shapes are "
            f"{', '.join(map(str, shapes))}. Reshape the smaller one to leading lengths of 1."
        )
    if all(shape == shapes[0] for shape in shapes):
        return shapes[0]
    result = []
    for axis, lengths in enumerate(zip(*shapes, strict=True)):
        known = {length for length in lengths if length not in (1, -1)}
        if len(known) > 1:
            raise RuleError(
                f"broadcast dimensions must be conformable: shapes {', '.join(map(str, shapes))} differ in "
                f"dimension {axis} ({', '.join(map(str, lengths))}). Lengths must be equal, or 1."
            )
        result.append(known.pop() if known else (-1 if -1 in lengths else 1))
    return tuple(result)


def _map(
    function: Callable[..., Any], dtype: DataType, shape: tuple[int, ...], operands: list[Known]
) -> Known:
    """The elements of `function` over broadcast operands; None where an operand is not known."""
    if not can_hold(dtype, shape) or any(operand.value is None for operand in operands):
        return Known(dtype, shape)
    columns = [np.broadcast_to(operand.elements(), shape).flat for operand in operands]
    return known_with(
        dtype,
        shape,
        [
            None if any(element is None for element in row) else function(*row)
            for row in zip(*columns, strict=True)
        ],
    )


def elementwise(attributes: Mapping[str, Any], inputs: Sequence[Known], strongly_typed: bool) -> list[Known]:
    """A binary operation on two tensors of one rank, with broadcasting."""
    op: ElementWiseOperation = attributes["op"]
    operation = f"operation {op.name}"
    dtype = common_type(inputs, strongly_typed, operation)
    if op in _LOGIC:
        require_type(dtype, {DataType.BOOL}, operation)
    elif op != ElementWiseOperation.EQUAL:
        require_type(dtype, NUMBERS, operation)
    out_type = DataType.BOOL if op in _COMPARISONS else dtype
    shape = broadcast([known.shape for known in inputs])
    return [_map(_BINARY[op], out_type, shape, list(inputs))]


def unary(attributes: Mapping[str, Any], inputs: Sequence[Known], strongly_typed: bool) -> list[Known]:
    """A function of one tensor."""
    op: UnaryOperation = attributes["op"]
    [known] = inputs
    if op == UnaryOperation.NOT:
        allowed = frozenset({DataType.BOOL})
    elif op in _UNARY_INT:
        allowed = NUMBERS
    else:
        allowed = FLOATS
    require_type(known.dtype, allowed, f"operation {op.name}")
    out_type = DataType.BOOL if op in (UnaryOperation.ISINF, UnaryOperation.ISNAN) else known.dtype
    if op not in _UNARY:
        return [Known(out_type, known.shape)]

    def function(element: Any) -> Any:
        if isinstance(element, float) and not math.isfinite(element):
            return None
        return _UNARY[op](element)

    return [_map(function, out_type, known.shape, [known])]


def activation(attributes: Mapping[str, Any], inputs: Sequence[Known], strongly_typed: bool) -> list[Known]:
    """An activation function; RELU also of integers."""
    kind: ActivationType = attributes["type"]
    [known] = inputs
    if kind != ActivationType.RELU:
        require_type(known.dtype, FLOATS, f"activation {kind.name}")
        return [Known(known.dtype, known.shape)]
    require_type(known.dtype, NUMBERS, "activation RELU")
    return [_map(lambda a: None if a != a else max(a, type(a)(0)), known.dtype, known.shape, [known])]


def select(attributes: Mapping[str, Any], inputs: Sequence[Known], strongly_typed: bool) -> list[Known]:
    """Elements of input 1 where input 0 is true, of input 2 elsewhere."""
    condition, *branches = inputs
    if condition.dtype != DataType.BOOL:
        raise OperandError(f"the condition must be BOOL, but it is {describe(condition)}")
    dtype = common_type(branches, strongly_typed, "select")
    shape = broadcast([known.shape for known in inputs])
    if not can_hold(dtype, shape) or any(known.value is None and not known.is_exact for known in inputs):
        return [Known(dtype, shape)]
    rows = zip(*(np.broadcast_to(known.elements(), shape).flat for known in inputs), strict=True)
    return [
        known_with(dtype, shape, [None if chosen is None else (a if chosen else b) for chosen, a, b in rows]),
    ]


def cast(attributes: Mapping[str, Any], inputs: Sequence[Known], strongly_typed: bool) -> list[Known]:
    """The same tensor in type `to_type`; to integers it truncates toward zero."""
    return [converted(inputs[0], attributes["to_type"])]


def identity(attributes: Mapping[str, Any], inputs: Sequence[Known], strongly_typed: bool) -> list[Known]:
    """The same tensor; in a weakly typed network its output type may be set to another."""
    return [inputs[0]]


def converted(known: Known, dtype: DataType) -> Known:
    """`known` after a conversion to `dtype`, with the values that certainly survive it."""
    if known.dtype == dtype:
        return known
    if known.value is None or not can_hold(dtype, known.shape):
        return Known(dtype, known.shape)
    return known_with(dtype, known.shape, [_convert(element, dtype) for element in known.value.flat])


def _convert(element: Any, dtype: DataType) -> Any:
    if element is None:
        return None
    if isinstance(element, float) and dtype in INDICES:
        return fit(math.trunc(element), dtype) if math.isfinite(element) else None
    return fit(element, dtype)


def value_of(array: np.ndarray[Any, Any], dtype: DataType) -> HostValue | None:
    """The host value of a numpy array, or None if such values are not followed."""
    return known_with(dtype, array.shape, array.reshape(-1).tolist()).value
