"""Integer arithmetic that ONNX Runtime lacks or does otherwise than TensorRT."""

from onnx import helper

from trtllm_ext.lowering.element_types import BOOL, INT64
from trtllm_ext.lowering.emitter import Emitter
from trtllm_ext.lowering.errors import LoweringError
from trtllm_ext.lowering.values import Value

# b ** e overflows 64 bits from e = 64 on for every |b| > 1; for |b| <= 1 only the parity of e matters.
_EXPONENT_BITS = 6


def divide(emitter: Emitter, a: Value, b: Value) -> Value:
    """Quotient rounded toward zero, as in C. A zero divisor fails the run.

    Raises LoweringError for a constant divisor that contains 0: ONNX Runtime may refuse to load such a model.
    """
    if 0 in (b.known_ints() or ()) or (b.data is not None and not b.data.all()):
        raise LoweringError(f"layer {emitter.scope!r}: the divisor contains 0, so that every run would fail")
    known = None if b.data is None else b.array()
    if known is not None and not (known == -1).any():
        return emitter.map("Div", a, b)
    # The machine's division traps on the lowest integer over -1, which would end the process.
    minus_one = emitter.map("Equal", b, emitter.scalar(-1, b.onnx_type), to=BOOL)
    divisor = emitter.map("Where", minus_one, emitter.scalar(1, b.onnx_type), b, to=b.onnx_type)
    quotient = emitter.map("Div", a, divisor)
    return emitter.map("Where", minus_one, emitter.map("Neg", quotient), quotient, to=a.onnx_type)


def floor_divide(emitter: Emitter, a: Value, b: Value) -> Value:
    """Quotient rounded toward minus infinity, as in Python."""
    quotient = divide(emitter, a, b)
    zero = emitter.scalar(0, a.onnx_type)
    remainder = emitter.map("Sub", a, emitter.map("Mul", quotient, b))
    inexact = emitter.map("Not", emitter.map("Equal", remainder, zero, to=BOOL))
    signs_differ = emitter.map(
        "Xor", emitter.map("Less", remainder, zero, to=BOOL), emitter.map("Less", b, zero, to=BOOL)
    )
    below = emitter.map("And", inexact, signs_differ)
    return emitter.map("Sub", quotient, emitter.cast(below, a.onnx_type))


def product(emitter: Emitter, value: Value, axis: int) -> Value:
    """The product over one axis, which is removed, modulo 2 ** bits (the runtime's own goes through double)."""
    rest = value.shape[:axis] + value.shape[axis + 1 :]
    wide = emitter.cast(value, INT64)
    zeros = emitter.map("Mul", wide, emitter.scalar(0, INT64))
    zeros = emitter.node("ReduceSum", [zeros, emitter.ints([axis])], INT64, rest, keepdims=0)
    one = emitter.scalar(1, INT64)
    ones = emitter.map("Add", zeros, one)
    if value.shape[axis] <= 0:
        # Scan refuses to go over nothing.
        pads = [0] * value.ndim + [int(other == axis) for other in range(value.ndim)]
        longer = (*value.shape[:axis], -1, *value.shape[axis + 1 :])
        wide = emitter.node("Pad", [wide, emitter.ints(pads), one], INT64, longer)
    dims = [length if length >= 0 else None for length in rest]
    state, element, result = (
        helper.make_tensor_value_info(name, INT64, dims) for name in ("so_far", "element", "with_element")
    )
    step = helper.make_node("Mul", ["so_far", "element"], ["with_element"])
    body = helper.make_graph([step], "multiply", [state, element], [result])
    total = emitter.node(
        "Scan", [ones, wide], INT64, rest, body=body, num_scan_inputs=1, scan_input_axes=[axis]
    )
    return emitter.cast(total, value.onnx_type)


def power(emitter: Emitter, a: Value, b: Value) -> Value:
    """a ** b modulo 2 ** bits, by squaring (the runtime's own goes through double and rounds above 2 ** 53).

    A negative exponent gives the quotient 1 / a ** |b| rounded toward zero; 0 to a negative power fails the run.
    """
    base, exponent = emitter.cast(a, INT64), emitter.cast(b, INT64)
    zero, one, two = (emitter.scalar(number, INT64) for number in (0, 1, 2))
    size = emitter.map("Abs", exponent)
    known = None if b.data is None else b.array()
    if known is None or (abs(known.astype(int)) >= 1 << _EXPONENT_BITS).any():
        parity = emitter.map("Mod", size, two)
        largest = emitter.map("Add", emitter.scalar((1 << _EXPONENT_BITS) - 2, INT64), parity)
        size = emitter.map("Min", size, largest)
    result, square = one, base
    bits = (
        _EXPONENT_BITS if known is None else max(1, int(abs(known.astype(int)).max(initial=0)).bit_length())
    )
    for bit in range(min(bits, _EXPONENT_BITS)):
        if bit:
            square = emitter.map("Mul", square, square)
        shifted = emitter.map("Div", size, emitter.scalar(1 << bit, INT64)) if bit else size
        odd = emitter.map("Equal", emitter.map("Mod", shifted, two), one, to=BOOL)
        factor = emitter.map("Where", odd, square, one, to=INT64)
        result = factor if bit == 0 else emitter.map("Mul", result, factor)
    if known is None or (known < 0).any():
        negative = emitter.map("Less", exponent, zero, to=BOOL)
        divisor = emitter.map("Where", negative, result, one, to=INT64)
        result = emitter.map("Where", negative, divide(emitter, one, divisor), result, to=INT64)
    return emitter.cast(result, a.onnx_type)
