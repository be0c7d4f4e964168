"""Operations on two operands, element by element.

Operands are Tensors or numbers; a number takes the type of the other operand. Shapes broadcast as in numpy. Types must
be equal (int32 beside int64 becomes int64), else GraphError.
"""

from typing import Any

from trtllm_ext.backend import tensorrt
from trtllm_ext.graph.dtypes import Scalar
from trtllm_ext.graph.functional.operands import broadcast_helper
from trtllm_ext.graph.layer import add_layer, output
from trtllm_ext.graph.tensor import Tensor

_COMPARISONS = ("EQUAL", "GREATER", "LESS")


def elementwise_binary(left: Tensor | Scalar, right: Tensor | Scalar, op: Any) -> Tensor:
    """`op` (a `trt.ElementWiseOperation`) of two operands; bool for comparisons, else the operands' type."""
    left, right = broadcast_helper(left, right)
    layer = add_layer("add_elementwise", left, right, op)
    return output(layer, tensorrt().bool if str(op).rpartition(".")[2] in _COMPARISONS else left.dtype)


def add(left: Tensor | Scalar, right: Tensor | Scalar) -> Tensor:
    """left + right."""
    return elementwise_binary(left, right, tensorrt().ElementWiseOperation.SUM)


def sub(left: Tensor | Scalar, right: Tensor | Scalar) -> Tensor:
    """left - right."""
    return elementwise_binary(left, right, tensorrt().ElementWiseOperation.SUB)


def mul(left: Tensor | Scalar, right: Tensor | Scalar) -> Tensor:
    """left * right."""
    return elementwise_binary(left, right, tensorrt().ElementWiseOperation.PROD)


def div(left: Tensor | Scalar, right: Tensor | Scalar) -> Tensor:
    """left / right; of integers the quotient rounded toward zero."""
    return elementwise_binary(left, right, tensorrt().ElementWiseOperation.DIV)


def floordiv(left: Tensor | Scalar, right: Tensor | Scalar) -> Tensor:
    """The quotient rounded down."""
    return elementwise_binary(left, right, tensorrt().ElementWiseOperation.FLOOR_DIV)


def modulo(x: Tensor, y: Tensor | Scalar) -> Tensor:
    """x - (x // y) * y: the remainder has the sign of y."""
    return sub(x, mul(floordiv(x, y), y))


def pow(left: Tensor | Scalar, right: Tensor | Scalar) -> Tensor:
    """left to the power of right."""
    return elementwise_binary(left, right, tensorrt().ElementWiseOperation.POW)


def maximum(left: Tensor | Scalar, right: Tensor | Scalar) -> Tensor:
    """The larger of both."""
    return elementwise_binary(left, right, tensorrt().ElementWiseOperation.MAX)


def minimum(left: Tensor | Scalar, right: Tensor | Scalar) -> Tensor:
    """The smaller of both."""
    return elementwise_binary(left, right, tensorrt().ElementWiseOperation.MIN)


def gt(left: Tensor | Scalar, right: Tensor | Scalar) -> Tensor:
    """left > right, bool."""
    return elementwise_binary(left, right, tensorrt().ElementWiseOperation.GREATER)


def lt(left: Tensor | Scalar, right: Tensor | Scalar) -> Tensor:
    """left < right, bool."""
    return elementwise_binary(left, right, tensorrt().ElementWiseOperation.LESS)


def eq(left: Tensor | Scalar, right: Tensor | Scalar) -> Tensor:
    """left == right, bool."""
    return elementwise_binary(left, right, tensorrt().ElementWiseOperation.EQUAL)


def op_and(left: Tensor | Scalar, right: Tensor | Scalar) -> Tensor:
    """left and right, of bools."""
    return elementwise_binary(left, right, tensorrt().ElementWiseOperation.AND)


def op_or(left: Tensor | Scalar, right: Tensor | Scalar) -> Tensor:
    """left or right, of bools."""
    return elementwise_binary(left, right, tensorrt().ElementWiseOperation.OR)


def op_xor(left: Tensor | Scalar, right: Tensor | Scalar) -> Tensor:
    """One of both but not both, of bools."""
    return elementwise_binary(left, right, tensorrt().ElementWiseOperation.XOR)


def int_clip(input: Tensor, lower: int, upper: int) -> Tensor:
    """Integers limited to lower..upper, both included."""
    return minimum(maximum(input, lower), upper)
