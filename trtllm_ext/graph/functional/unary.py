"""Operations on one operand, element by element."""

from typing import Any

from trtllm_ext.backend import tensorrt
from trtllm_ext.graph.functional.operands import require_tensor
from trtllm_ext.graph.layer import add_layer, output
from trtllm_ext.graph.tensor import Tensor


def unary(input: Tensor, op: Any) -> Tensor:
    """`op` (a `trt.UnaryOperation`) of a tensor; type and shape stay."""
    return output(add_layer("add_unary", require_tensor(input, "input"), op), input.dtype)


def round(input: Tensor) -> Tensor:
    """The nearest integer, halves to even."""
    return unary(input, tensorrt().UnaryOperation.ROUND)


def sqrt(input: Tensor) -> Tensor:
    """The square root."""
    return unary(input, tensorrt().UnaryOperation.SQRT)


def exp(input: Tensor) -> Tensor:
    """e to the power of input."""
    return unary(input, tensorrt().UnaryOperation.EXP)


def sin(input: Tensor) -> Tensor:
    """The sine, of radians."""
    return unary(input, tensorrt().UnaryOperation.SIN)


def cos(input: Tensor) -> Tensor:
    """The cosine, of radians."""
    return unary(input, tensorrt().UnaryOperation.COS)


def abs(input: Tensor) -> Tensor:
    """The absolute value."""
    return unary(input, tensorrt().UnaryOperation.ABS)


def log(input: Tensor) -> Tensor:
    """The natural logarithm."""
    return unary(input, tensorrt().UnaryOperation.LOG)


def not_op(input: Tensor) -> Tensor:
    """Not, of bools."""
    return unary(input, tensorrt().UnaryOperation.NOT)
