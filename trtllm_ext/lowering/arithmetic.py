"""Elementwise and unary layers."""

from trtllm_ext.lowering import integers
from trtllm_ext.lowering.element_types import BOOL, FLOAT, INT64, INTEGERS
from trtllm_ext.lowering.layer import Layer
from trtllm_ext.lowering.matmul import with_bias
from trtllm_ext.lowering.registry import lowers
from trtllm_ext.lowering.values import Value

_ARITHMETIC = {"SUM": "Add", "PROD": "Mul", "MAX": "Max", "MIN": "Min", "SUB": "Sub"}
_FLOAT_ONLY = {"DIV": "Div", "POW": "Pow"}
_INTEGER_ONLY = {"DIV": integers.divide, "FLOOR_DIV": integers.floor_divide, "POW": integers.power}
_COMPARISON = {"EQUAL": "Equal", "GREATER": "Greater", "LESS": "Less"}
_LOGIC = {"AND": "And", "OR": "Or", "XOR": "Xor"}

_UNARY = {
    "EXP": "Exp",
    "LOG": "Log",
    "SQRT": "Sqrt",
    "RECIP": "Reciprocal",
    "ABS": "Abs",
    "NEG": "Neg",
    "SIN": "Sin",
    "COS": "Cos",
    "TAN": "Tan",
    "SINH": "Sinh",
    "COSH": "Cosh",
    "ASIN": "Asin",
    "ACOS": "Acos",
    "ATAN": "Atan",
    "ASINH": "Asinh",
    "ACOSH": "Acosh",
    "ATANH": "Atanh",
    "CEIL": "Ceil",
    "FLOOR": "Floor",
    "ERF": "Erf",
    "SIGN": "Sign",
    "ROUND": "Round",
}
_INTEGER_UNARY = frozenset({"ABS", "NEG", "SIGN"})
_PREDICATE = {"ISINF": "IsInf", "ISNAN": "IsNaN"}


@lowers("ELEMENTWISE")
def elementwise(layer: Layer) -> Value:
    """A binary operation with broadcast of lengths 1."""
    emitter = layer.emitter
    operation: str = layer.api.op.name
    a, b = layer.operands()
    if {a.onnx_type, b.onnx_type} == INTEGERS:
        a, b = emitter.cast(a, INT64), emitter.cast(b, INT64)
    if a.onnx_type != b.onnx_type:
        raise layer.refusal(f"{operation} of two different types")
    if operation == "SUM" and (fused := with_bias(layer, a, b)) is not None:
        return fused
    a = _slim(a, b)
    b = _slim(b, a)
    if operation in _COMPARISON and (operation == "EQUAL" or a.onnx_type != BOOL):
        return emitter.map(_COMPARISON[operation], a, b, to=BOOL)
    if operation in _LOGIC and a.onnx_type == BOOL:
        return emitter.map(_LOGIC[operation], a, b)
    if operation in _ARITHMETIC and a.onnx_type != BOOL:
        return emitter.map(_ARITHMETIC[operation], a, b)
    if a.onnx_type == FLOAT and operation in _FLOAT_ONLY:
        return emitter.map(_FLOAT_ONLY[operation], a, b)
    if a.onnx_type == FLOAT and operation == "FLOOR_DIV":
        return emitter.map("Floor", emitter.map("Div", a, b))
    if a.onnx_type in INTEGERS and operation in _INTEGER_ONLY:
        return _INTEGER_ONLY[operation](emitter, a, b)
    raise layer.refusal(f"the operation {operation} is not supported on inputs of this type")


def _slim(value: Value, other: Value) -> Value:
    """A constant without its leading lengths of 1: ONNX Runtime fuses a bias only if it is 1-D."""
    if value.data is None or other.ndim < value.ndim:
        return value
    shape = value.shape
    while len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]
    return value.reshaped(shape)


@lowers("UNARY")
def unary(layer: Layer) -> Value:
    """An operation on each element."""
    operation: str = layer.api.op.name
    value = layer.operand(0)
    if value.onnx_type == BOOL and operation == "NOT":
        return layer.emitter.map("Not", value)
    if value.onnx_type == FLOAT and operation in _PREDICATE:
        return layer.emitter.map(_PREDICATE[operation], value, to=BOOL)
    if operation in _UNARY and (
        value.onnx_type == FLOAT or (value.onnx_type in INTEGERS and operation in _INTEGER_UNARY)
    ):
        return layer.emitter.map(_UNARY[operation], value)
    raise layer.refusal(f"the operation {operation} is not supported on an input of this type")
